"""Where data and downloads go: the same for the gateway and the launcher, which share no code."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream.gateway import installation
from millstream.infra import paths
from millstream.infra.errors import CacheUnwritable
from millstream.schemas.errors import Misconfigured

Find = Callable[[Path], Path]

both = pytest.mark.parametrize(
    "find", [installation.data_folder_of, paths.data_folder_of], ids=["gateway", "infra"]
)


@both
def test_the_data_is_the_working_folders_where_none_above_has_any(
    tmp_path: Path, find: Find
) -> None:
    assert find(tmp_path / "a" / "b") == tmp_path / "a" / "b" / ".millstream" / "data"


@both
def test_the_data_is_that_of_the_nearest_folder_above_that_has_any(
    tmp_path: Path, find: Find
) -> None:
    for folder in (tmp_path, tmp_path / "a"):
        (folder / ".millstream").mkdir(parents=True)
    assert find(tmp_path / "a" / "b" / "c") == tmp_path / "a" / ".millstream" / "data"
    assert find(tmp_path / "d") == tmp_path / ".millstream" / "data"


@both
def test_a_file_of_that_name_above_is_no_folder_of_data(tmp_path: Path, find: Find) -> None:
    (tmp_path / ".millstream").write_text("")
    assert find(tmp_path / "a") == tmp_path / "a" / ".millstream" / "data"


@both
def test_what_somebody_else_left_above_is_not_believed(
    tmp_path: Path, find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".millstream").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: (tmp_path / ".millstream").stat().st_uid + 1)
    assert find(tmp_path / "a") == tmp_path / "a" / ".millstream" / "data"
    # What stands in the working folder itself is used, as everything there is.
    assert find(tmp_path) == tmp_path / ".millstream" / "data"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the gateway take itself for an installed one."""
    monkeypatch.setattr(installation, "IS_CHECKOUT", False)


def of_both(monkeypatch: pytest.MonkeyPatch, **variables: str) -> set[Path]:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return {installation.downloads_folder(None), paths.cache_folder(variables, checkout=False)}


@pytest.mark.usefixtures("installed")
def test_downloads_of_an_installed_one_go_to_the_users_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_home = {Path("/home/ada/.cache/millstream")}
    assert of_both(monkeypatch, HOME="/home/ada") == in_home
    assert of_both(monkeypatch, HOME="/home/ada", XDG_CACHE_HOME="/c") == {Path("/c/millstream")}
    # By the specification of these variables an empty and a relative one count as not given.
    assert of_both(monkeypatch, HOME="/home/ada", XDG_CACHE_HOME="") == in_home
    assert of_both(monkeypatch, HOME="/home/ada", XDG_CACHE_HOME="c") == in_home


@pytest.mark.usefixtures("installed")
def test_a_user_without_a_home_is_told_what_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        message = "Could not determine home directory."
        raise RuntimeError(message)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    words = re.escape("name a folder for downloads in MILLSTREAM_CACHE")
    with pytest.raises(Misconfigured, match=words):
        installation.downloads_folder(None)
    with pytest.raises(CacheUnwritable, match=words):
        paths.cache_folder({}, checkout=False)


def test_a_checkout_keeps_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = installation.HOME / ".millstream"
    assert installation.data_folder() == paths.data_folder() == own / "data"
    assert installation.downloads_folder(None) == paths.cache_folder({}) == own / "cache"


@pytest.mark.parametrize("named", ["/elsewhere", "~/c", "c"])
def test_a_folder_that_is_named_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = installation.downloads_folder(Path(named))
    assert found == paths.cache_folder({"MILLSTREAM_CACHE": named})
    assert found.is_absolute()


def test_words_to_be_copied_work_in_the_folder_where_they_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "HOME", tmp_path / "home")
    monkeypatch.setattr(installation, "IS_CHECKOUT", True)
    program = tmp_path / "home" / "millstream"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert installation.command() == str(program)
    monkeypatch.setenv("PATH", str(program.parent))
    assert installation.command() == "millstream"
    monkeypatch.chdir(program.parent)
    assert installation.command() == "./millstream"
    monkeypatch.setattr(installation, "IS_CHECKOUT", False)
    assert installation.command() == "millstream"
