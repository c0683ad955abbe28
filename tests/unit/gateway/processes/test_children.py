"""Programs that we start: ready by a line, stopped within a bound, explained when they end."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from millstream.gateway.processes.children import Child, ChildEnded, log_tail, module_command

READY = "print('ready', flush=True); import sys; sys.stdin.read()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY


async def start(code: str, log: Path) -> Child:
    return await Child.start("program", (sys.executable, "-c", code), log=log)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_program_says_that_it_is_ready_and_stops_when_asked(tmp_path: Path) -> None:
    child = await start(READY, tmp_path / "log")
    assert await child.ready_line(30) == "ready\n"
    await child.stop(10)
    assert await child.wait() < 0
    assert not runs(child.pid)


async def test_a_program_that_ends_early_is_told_with_its_log(tmp_path: Path) -> None:
    child = await start(
        "import sys; print('no room', file=sys.stderr); sys.exit(6)", tmp_path / "log"
    )
    with pytest.raises(ChildEnded, match="exit code 6") as told:
        await child.ready_line(30)
    assert "no room" in str(told.value)
    assert told.value.exit_code == 6


async def test_a_program_that_was_killed_is_told_with_the_signal(tmp_path: Path) -> None:
    child = await start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "log")
    with pytest.raises(ChildEnded, match="program was killed by SIGKILL") as told:
        await child.ready_line(30)
    assert told.value.exit_code == -9


async def test_what_stands_in_the_working_folder_is_not_imported_by_a_program_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("typer", "agents", "yaml"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    child = await Child.start("program", module_command("millstream.gateway", "--version"))
    assert (await child.ready_line(30)).startswith("millstream ")
    assert await child.wait() == 0


async def test_a_program_that_is_never_ready_is_told_too(tmp_path: Path) -> None:
    child = await start("import sys; sys.stdin.read()", tmp_path / "log")
    with pytest.raises(ChildEnded, match=r"not ready after 0\.1 s"):
        await child.ready_line(0.1)
    await child.stop(10)


async def test_a_program_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    child = await start(STUBBORN, tmp_path / "log")
    await child.ready_line(30)
    await child.stop(0.1)
    assert not runs(child.pid)


async def test_who_stops_waiting_kills_it(tmp_path: Path) -> None:
    child = await start(STUBBORN, tmp_path / "log")
    await child.ready_line(30)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await child.stop(100)
    assert not runs(child.pid)


async def test_the_log_of_the_one_before_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log"
    for word in ("first", "second"):
        child = await start(f"import sys; sys.stderr.write('{word}')", log)
        await child.wait()
    assert log_tail(log) == "    second"
    assert log_tail(log.with_name("log.1")) == "    first"
