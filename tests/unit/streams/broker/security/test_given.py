"""Secrets in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.given import is_readable_by_all, read_secret


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_end_of_a_files_line_is_no_part_of_the_secret(tmp_path: Path, end: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(f" p w {end}".encode())
    assert read_secret(file, named="X") == " p w "


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "X: there is no file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a\nb\n", "several lines"),
        (b"\xff\xfe", "is not text"),
    ],
)
def test_a_file_that_holds_no_secret_is_named(
    tmp_path: Path, data: bytes | None, words: str
) -> None:
    file = tmp_path / "secret"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(Misconfigured, match=words):
        read_secret(file, named="X")


def test_a_folder_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_secret(tmp_path, named="X")


def test_a_file_that_all_may_read_is_known(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.touch(mode=0o644)
    file.chmod(0o644)
    assert is_readable_by_all(file)
    file.chmod(0o640)
    assert not is_readable_by_all(file)
