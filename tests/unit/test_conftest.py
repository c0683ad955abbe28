from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(("ci", "exit_code"), [("true", 1), ("", 0)])
def test_a_skipped_test_is_a_failed_one_in_ci_only(ci: str, exit_code: int, tmp_path: Path) -> None:
    module = tmp_path / "test_probe.py"
    module.write_text("import pytest\ndef test_probe(): pytest.skip('no engine')\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-rs", "--rootdir", "."]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(module)],
        cwd=PROJECT,
        env={"CI": ci, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == exit_code, run.stdout + run.stderr
    assert "no engine" in run.stdout
