from __future__ import annotations

import os
from pathlib import Path

import pytest

from millstream.infra.errors import DataInUse, DataUnwritable
from millstream.infra.hold import endpoints_file, hold, remove


def test_a_folder_is_held_once_and_the_error_names_the_holder(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(DataInUse, match=f"pid {os.getpid()}"), hold(tmp_path):
        pass


def test_the_error_tells_how_to_connect_to_what_runs(tmp_path: Path) -> None:
    with hold(tmp_path):
        endpoints_file(tmp_path).write_text('{"kafka": "127.0.0.1:9"}')
        with pytest.raises(DataInUse, match=r"127\.0\.0\.1:9"), hold(tmp_path):
            pass


def test_a_folder_that_cannot_be_written_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataUnwritable, match="MILLSTREAM_DATA_DIR"), hold(tmp_path / "file" / "a"):
        pass


def test_a_folder_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with hold(tmp_path):
            pass


def test_endpoints_of_a_crashed_launcher_are_gone_once_the_next_one_holds(tmp_path: Path) -> None:
    endpoints_file(tmp_path).write_text("stale")
    with hold(tmp_path):
        assert not endpoints_file(tmp_path).exists()


def test_a_held_folder_is_not_removed(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(DataInUse):
        remove(tmp_path)
    assert tmp_path.exists()


def test_a_free_folder_is_removed_with_all_it_holds(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "kafka-1").mkdir(parents=True)
    assert remove(data)
    assert not data.exists()
    assert not remove(data)


def test_git_is_told_to_pass_over_the_data_of_a_project(tmp_path: Path) -> None:
    data = tmp_path / ".millstream" / "data"
    with hold(data):
        assert (tmp_path / ".millstream" / ".gitignore").read_text().splitlines()[-1] == "*"
    (tmp_path / ".millstream" / ".gitignore").write_text("mine")
    with hold(data):
        assert (tmp_path / ".millstream" / ".gitignore").read_text() == "mine"
    with hold(tmp_path / "elsewhere"):
        assert not (tmp_path / ".gitignore").exists()
