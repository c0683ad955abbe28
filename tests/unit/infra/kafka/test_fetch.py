from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from jgo.maven import MavenContext
from rich.console import Console

from millstream.infra.errors import JarMismatch
from millstream.infra.kafka.fetch import _fetch_one, fetch
from millstream.infra.kafka.jars import Jar, jars_folder

_BYTES = b"what the registry gave"
_COORDINATE = "org.one:one:1.0"


def _staged(staging: Path) -> MavenContext:
    """A staging folder that has the artifact already, so that nothing is downloaded."""
    folder = staging / "org" / "one" / "one" / "1.0"
    folder.mkdir(parents=True)
    (folder / "one-1.0.jar").write_bytes(_BYTES)
    return MavenContext(repo_cache=staging, offline=True)


def test_a_jar_with_its_pinned_bytes_moves_into_the_cache(tmp_path: Path) -> None:
    jars_folder(tmp_path).mkdir()
    jar = Jar(hashlib.sha256(_BYTES).hexdigest(), _COORDINATE, "one-1.0.jar")
    _fetch_one(_staged(tmp_path / "staging"), jar, tmp_path)
    assert (jars_folder(tmp_path) / "one-1.0.jar").read_bytes() == _BYTES


def test_a_jar_with_other_bytes_is_named_and_never_enters_the_cache(tmp_path: Path) -> None:
    jars_folder(tmp_path).mkdir()
    jar = Jar("0" * 64, _COORDINATE, "one-1.0.jar")
    with pytest.raises(JarMismatch, match=r"org\.one:one:1\.0"):
        _fetch_one(_staged(tmp_path / "staging"), jar, tmp_path)
    assert list(jars_folder(tmp_path).iterdir()) == []


def test_a_full_cache_is_left_as_it_is(tmp_path: Path) -> None:
    jars_folder(tmp_path).mkdir()
    (jars_folder(tmp_path) / "one-1.0.jar").write_bytes(_BYTES)
    jar = Jar(hashlib.sha256(_BYTES).hexdigest(), _COORDINATE, "one-1.0.jar")
    assert fetch((jar,), tmp_path, Console(file=io.StringIO())) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["jars"]
