from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from millstream.infra.errors import NotReady, ServiceDied
from millstream.infra.processes.process import ChildProcess, Command, log_tail
from millstream.infra.processes.waiting import ready_or_dead
from tests.support import eventually

_IGNORES_SIGTERM = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
signal.pause()
"""


def _command(folder: Path, program: str) -> Command:
    argv = (sys.executable, "-c", program)
    return Command(name="probe", argv=argv, folder=folder, log=folder / "probe.log")


async def _never() -> bool:
    return False


async def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = await ChildProcess.start(_command(tmp_path, _IGNORES_SIGTERM))
    await eventually(lambda: child.log.read_text() == "up\n")
    await child.stop(grace_s=0.05)
    assert await child.wait() == -signal.SIGKILL


async def test_a_child_that_dies_before_it_answers_is_told_with_the_end_of_its_log(
    tmp_path: Path,
) -> None:
    child = await ChildProcess.start(_command(tmp_path, "raise SystemExit('no room left')"))
    with pytest.raises(ServiceDied, match=r"(?s)exit code 1.*no room left"):
        await ready_or_dead(child, _never, what="probe", timeout_s=30)


async def test_a_child_that_never_answers_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = await ChildProcess.start(_command(tmp_path, _IGNORES_SIGTERM))
    await eventually(lambda: child.log.read_text() == "up\n")
    with pytest.raises(NotReady, match=r"(?s)did not answer within 0\.1 s.*up"):
        await ready_or_dead(child, _never, what="probe", timeout_s=0.1)
    await child.kill()


async def test_the_log_of_the_run_before_is_kept(tmp_path: Path) -> None:
    for text in ("first", "second"):
        child = await ChildProcess.start(_command(tmp_path, f"print({text!r})"))
        assert await child.wait() == 0
    assert (tmp_path / "probe.log").read_text() == "second\n"
    assert (tmp_path / "probe.log.1").read_text() == "first\n"


async def test_a_signal_to_a_child_that_ended_is_no_error(tmp_path: Path) -> None:
    child = await ChildProcess.start(_command(tmp_path, ""))
    await child.wait()
    child.signal(signal.SIGTERM)
    assert not child.running


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    log.write_text("".join(f"line {n}\n" for n in range(10_000)))
    lines = log_tail(log).splitlines()
    assert len(lines) == 40
    assert lines[-1].strip() == "line 9999"
