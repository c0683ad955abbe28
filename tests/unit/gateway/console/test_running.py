"""Signals cancel a command; what it stops on its way out is stopped."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from millstream.gateway.console.running import Stopped, run


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
