"""Commands whose standard streams are closed, as services' often are, or on a full disk."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest


def run(arguments: str, redirected: str) -> subprocess.CompletedProcess[str]:
    command = f"{shlex.quote(sys.executable)} -m millstream.gateway {arguments} {redirected}"
    return subprocess.run(  # noqa: S602  only a shell closes a stream, and it is our own line
        command, shell=True, capture_output=True, text=True, timeout=9, check=False
    )


@pytest.mark.parametrize("redirected", ["<&- >&- 2>&-", ">/dev/null 2>/dev/full"])
def test_a_command_does_its_work_though_nobody_can_read_of_it(redirected: str) -> None:
    # pixelb/crudini#82, streamlink/streamlink#6197: no stream, and so an AttributeError.
    done = run("--version", redirected)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_data_that_a_full_disk_does_not_take_is_an_error_in_a_line() -> None:
    done = run("--version", ">/dev/full")
    assert done.returncode == 1
    assert done.stderr == "error: standard output cannot be written: No space left on device\n"


def test_standard_input_that_is_closed_holds_nothing_to_ask() -> None:
    done = run("submit - --user ada", "<&-")
    assert done.returncode == 2
    assert "standard input is empty" in done.stderr
