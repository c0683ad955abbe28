from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def run_probe(folder: Path, test: str, *options: str, ci: str = "true") -> str:
    """Run a test of one module; give its exit code and what was told."""
    module = folder / "test_probe.py"
    module.write_text(f"import pytest\n{test}\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-rs", "--rootdir", "."]
    run = subprocess.run(
        [*command, "-c", "pyproject.toml", "-p", "no:cacheprovider", *options, str(module)],
        cwd=PROJECT,
        env={"CI": ci, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return f"exit code {run.returncode}\n{run.stdout}{run.stderr}"


@pytest.mark.parametrize(("ci", "exit_code"), [("true", 1), ("", 0)])
def test_a_skipped_test_is_a_failed_one_in_ci_only(ci: str, exit_code: int, tmp_path: Path) -> None:
    told = run_probe(tmp_path, "def test_probe(): pytest.skip('no engine')", ci=ci)
    assert f"exit code {exit_code}\n" in told
    assert "no engine" in told


def test_in_ci_a_test_beyond_the_limit_fails_unless_it_is_slow(tmp_path: Path) -> None:
    tests = "def test_probe(): pass\n@pytest.mark.slow\ndef test_slow(): pass"
    told = run_probe(tmp_path, tests, "-o", "seconds_max=-1")
    assert "beyond -1 s a test is made faster or marked slow" in told
    assert "1 failed, 1 passed" in told


def test_what_a_test_shares_with_others_does_not_count_as_its_time(tmp_path: Path) -> None:
    fixture = "@pytest.fixture(scope='session')\ndef shared(): sum(range(30_000_000))"
    told = run_probe(tmp_path, f"{fixture}\ndef test_probe(shared): pass", "-o", "seconds_max=0.2")
    assert "exit code 0\n" in told


def test_the_seconds_of_each_file_are_written_where_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "made" / "durations.json"
    told = run_probe(tmp_path, "def test_probe(): pass", "--durations-file", str(file))
    assert "exit code 0\n" in told
    ((name, seconds),) = json.loads(file.read_text()).items()
    assert name.endswith("test_probe.py")
    assert seconds >= 0
