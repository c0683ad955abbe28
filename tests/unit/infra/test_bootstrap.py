"""What the set-up of a checkout refuses before it installs anything."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("extras", [("groc",), ("groq,groc",), ("groq", "groc"), ("groc ,groq",)])
def test_an_extra_that_does_not_exist_is_refused_with_those_that_do(
    extras: tuple[str, ...],
) -> None:
    refused = set_up(*extras)
    known = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    names = " ".join(known["optional-dependencies"])
    assert refused.returncode == 1
    assert refused.stderr == f"error: there is no extra groc; known are: {names}\n"


@pytest.mark.parametrize("extra", ["-x", "*", "gro", "groq.*", "millstream"])
def test_a_pattern_or_an_option_is_no_extra(extra: str) -> None:
    refused = set_up(extra)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: there is no extra {extra}; known are: ")


def set_up(*extras: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(PROJECT / "infra" / "bootstrap.sh"), "setup", *extras]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
