"""Signals cancel a command; what it stops on its way out is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from millstream.gateway.console.running import run, run_within
from millstream.gateway.exits import ExitCode, Stopped


def test_what_a_command_gives_is_given_back() -> None:
    async def main() -> int:
        return 7

    assert run(main()) == 7


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_a_command_after_its_clean_up(number: signal.Signals, code: int) -> None:
    done: list[str] = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            done.append("cleaned up")

    with pytest.raises(Stopped) as stopped:
        run(main())
    assert stopped.value.exit_code == code
    assert done == ["cleaned up"]


def test_a_hangup_that_is_ignored_at_the_start_stays_ignored() -> None:
    async def main() -> str:
        os.kill(os.getpid(), signal.SIGHUP)
        return "done"

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(main()) == "done"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_a_clean_up_that_takes_too_long() -> None:
    async def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    with pytest.raises(Stopped):
        run(main())


def test_an_error_of_a_command_is_its_own() -> None:
    async def main() -> None:
        message = "broken"
        raise ValueError(message)

    with pytest.raises(ValueError, match="broken"):
        run(main())


def test_what_comes_in_time_is_given_back() -> None:
    async def main() -> ExitCode:
        return ExitCode.REJECTED

    assert run_within(60, main(), _never) == ExitCode.REJECTED


def test_what_does_not_come_in_time_is_cancelled_after_it_was_told() -> None:
    order: list[str] = []

    async def main() -> ExitCode:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("cleaned up")
        return ExitCode.OK

    def late() -> ExitCode:
        order.append("told")
        return ExitCode.TIMED_OUT

    assert run_within(0.01, main(), late) == ExitCode.TIMED_OUT
    assert order == ["told", "cleaned up"]


def test_a_signal_within_the_limit_stops_a_command() -> None:
    async def main() -> ExitCode:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
        return ExitCode.OK

    with pytest.raises(Stopped):
        run_within(60, main(), _never)


def test_clients_that_never_close_end_with_the_process() -> None:
    """As those of a broker that hangs."""
    program = """
import asyncio
from millstream.gateway.console.running import run_within
from millstream.gateway.exits import ExitCode

async def main():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

run_within(0.01, main(), lambda: ExitCode.TIMED_OUT)
"""
    began = time.monotonic()
    told = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert told.returncode == 5
    assert time.monotonic() - began < 20


def _never() -> ExitCode:
    message = "it was in time"
    raise AssertionError(message)
