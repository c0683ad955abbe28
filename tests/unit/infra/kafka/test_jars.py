from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from millstream.infra.errors import LockFileInvalid
from millstream.infra.kafka.jars import (
    Jar,
    class_path,
    format_lock,
    jars_folder,
    missing,
    parse_lock,
    read_lock,
)
from millstream.infra.paths import LOCK_FILE

_BYTES = b"the pinned bytes"
_ONE = Jar(hashlib.sha256(_BYTES).hexdigest(), "org.one:one:1.0", "one-1.0.jar")
_TWO = Jar("b" * 64, "org.two:two:2.0", "two-2.0.jar")


def _cached(cache: Path, jar: Jar, content: bytes) -> Path:
    folder = jars_folder(cache)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / jar.filename
    path.write_bytes(content)
    return path


def test_what_is_written_is_read_back_sorted_by_coordinate() -> None:
    assert parse_lock(format_lock([_TWO, _ONE])) == (_ONE, _TWO)


def test_the_committed_lock_pins_kafka_and_a_logging_binding() -> None:
    names = {jar.filename for jar in read_lock(LOCK_FILE)}
    assert {"kafka_2.13-4.3.1.jar", "log4j-slf4j-impl-2.25.4.jar"} <= names


@pytest.mark.parametrize(
    "line",
    [
        f"{'a' * 63}  org.one:one:1.0  one-1.0.jar",
        f"{'a' * 64} org.one:one:1.0 one-1.0.jar",
        f"{'a' * 64}  org.one:one  one-1.0.jar",
        f"{'a' * 64}  org.one:one:1.0  ../one-1.0.jar",
        f"{'a' * 64}  org.one:one:1.0  one-1.0.zip",
    ],
)
def test_a_malformed_line_is_named_by_its_number(line: str) -> None:
    with pytest.raises(LockFileInvalid, match="line 2 "):
        parse_lock(f"# a comment\n{line}\n")


def test_a_jar_pinned_twice_is_refused() -> None:
    with pytest.raises(LockFileInvalid, match=r"one-1\.0\.jar a second time"):
        parse_lock(format_lock([_ONE, _ONE]))


def test_a_lock_that_pins_nothing_is_refused() -> None:
    with pytest.raises(LockFileInvalid, match="no jar"):
        parse_lock("# only comments\n")


def test_a_missing_lock_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(LockFileInvalid, match="lock-jars"):
        read_lock(tmp_path / "none.lock")


def test_a_jar_with_its_pinned_bytes_is_not_missing(tmp_path: Path) -> None:
    _cached(tmp_path, _ONE, _BYTES)
    assert missing([_ONE, _TWO], tmp_path) == (_TWO,)


def test_a_jar_whose_bytes_changed_counts_as_missing(tmp_path: Path) -> None:
    _cached(tmp_path, _ONE, _BYTES + b".")
    assert missing([_ONE], tmp_path) == (_ONE,)


def test_the_class_path_holds_the_pinned_jars_and_nothing_else_of_the_folder(
    tmp_path: Path,
) -> None:
    _cached(tmp_path, Jar("", "", "stranger.jar"), b"")
    path = _cached(tmp_path, _ONE, _BYTES)
    assert class_path([_ONE], tmp_path) == str(path)


def test_a_cache_below_a_colon_is_refused_because_java_splits_there(tmp_path: Path) -> None:
    with pytest.raises(LockFileInvalid, match="':'"):
        class_path([_ONE], tmp_path / "a:b")
