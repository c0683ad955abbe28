"""A provider's package is installed beside the locked ones, and stays."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_an_extra_moves_nothing_that_is_locked_and_outlasts_a_new_environment(
    tmp_path: Path,
) -> None:
    for name in ("pyproject.toml", "requirements.lock", "requirements-extras.lock"):
        shutil.copy(PROJECT / name, tmp_path)
    shutil.copytree(PROJECT / "src", tmp_path / "src", symlinks=True)
    for link in (PROJECT / "src" / "millstream").iterdir():
        if link.is_symlink():
            name = link.resolve().name
            shutil.copytree(PROJECT / name, tmp_path / name, dirs_exist_ok=True)

    set_up(tmp_path)
    before = installed(tmp_path)
    assert "langchain-groq" not in before
    assert "installing extras: groq" in set_up(tmp_path, "groq")
    after = installed(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"groq", "langchain-groq"}

    # As an update of the lock does.
    for stamp in (tmp_path / ".venv").glob(".stamp-*"):
        stamp.unlink()
    set_up(tmp_path)
    assert installed(tmp_path) == after
    # Nothing is missing, so nothing is asked for.
    told = set_up(tmp_path, "groq", UV_DEFAULT_INDEX="http://127.0.0.1:1/simple")
    assert "installing" not in told


def set_up(checkout: Path, *extras: str, **changes: str) -> str:
    """Run set-up with the downloads of this checkout; give what it says."""
    cache = PROJECT / ".millstream" / "cache"
    environment = {
        "MILLSTREAM_CACHE": str(cache),
        **os.environ,  # noqa: TID251  what a child inherits
        **changes,
    }
    done = subprocess.run(
        [str(shutil.which("sh")), str(checkout / "infra" / "bootstrap.sh"), "setup", *extras],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def installed(checkout: Path) -> dict[str, str]:
    """Give the packages of the environment and their versions."""
    program = (
        "from importlib.metadata import distributions\n"
        "for one in distributions(): print(one.name.lower(), one.version)"
    )
    told = subprocess.run(
        [str(checkout / ".venv" / "bin" / "python"), "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(line.split() for line in told.stdout.splitlines())
