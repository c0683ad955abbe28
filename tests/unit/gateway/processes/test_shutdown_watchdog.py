"""A process that was told to end ends, whatever it waits for, and says what that was."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from millstream.gateway.exits import ExitCode

_STUCK = """
    import asyncio, contextlib, time
    from millstream.gateway.processes.shutdown_watchdog import end_well_within, end_within

    async def waits_for_what_never_comes():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()

    async def main(blocks):
        task = asyncio.create_task(waits_for_what_never_comes())
        await asyncio.sleep(0)
        end_within(0.2)
        if blocks:
            time.sleep(60)
        await task
"""


def _ended(last_line: str) -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(_STUCK) + last_line
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


def test_one_that_waits_ends_and_says_for_what() -> None:
    ended = _ended("asyncio.run(main(blocks=False))")
    assert ended.returncode == ExitCode.FAILED
    assert "has not in 0 s" in ended.stderr
    assert "waits_for_what_never_comes" in ended.stderr


def test_one_that_cannot_say_for_what_ends_too() -> None:
    full = "import sys; sys.stderr = open('/dev/full', 'w', buffering=1); "
    ended = _ended(f"{full}asyncio.run(main(blocks=False))")
    assert ended.returncode == ExitCode.FAILED
    assert not ended.stderr


def test_one_whose_loop_is_blocked_ends_too() -> None:
    ended = _ended("asyncio.run(main(blocks=True))")
    assert ended.returncode == ExitCode.FAILED
    assert "in main" in ended.stderr


def test_one_that_ends_by_itself_is_left_alone() -> None:
    ended = _ended("async def soon(): end_within(60)\nasyncio.run(soon())")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_one_that_is_done_but_for_what_heeds_no_cancel_ends_well() -> None:
    ended = _ended("""
async def done():
    asyncio.create_task(waits_for_what_never_comes())
    await asyncio.sleep(0)
    end_well_within(0.2)
    print("done", end="")
asyncio.run(done())""")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done", "")
