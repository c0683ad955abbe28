"""Running a command's coroutine to its end, or to the first signal that asks it to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import TypeVar

from millstream.gateway.exits import ExitCode

__all__ = ["Stopped", "run"]

T = TypeVar("T")

_EXIT_CODES = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.HUNG_UP,
}


class Stopped(Exception):
    """A signal asked the command to stop, and everything has been stopped."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.exit_code = _EXIT_CODES[number]


def run(main: Coroutine[object, object, T], *, interrupted: Callable[[], bool] | None = None) -> T:
    """Run a coroutine in an event loop of its own and give what it returns.

    SIGINT, SIGTERM and SIGHUP cancel it, each time they come: what it stops in its `finally` with
    patience it must give up at the second. SIGHUP stays ignored where whoever started us ignores
    it, as `nohup` does. `interrupted` is asked first at a SIGINT, in the loop: where it
    says that it has dealt with it, nothing is cancelled. Raises `Stopped` once it has ended.
    """
    return asyncio.run(_interruptible(main, interrupted))


async def _interruptible(
    main: Coroutine[object, object, T], interrupted: Callable[[], bool] | None
) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main)
    signalled: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if number == signal.SIGINT and interrupted is not None and interrupted():
            return
        signalled.append(number)
        task.cancel()

    heeded = [number for number in _EXIT_CODES if not _ignores_hangup(number)]
    for number in heeded:
        loop.add_signal_handler(number, stop, number)
    try:
        # Not awaited directly: a cancelled task and a cancelled self could not be told apart.
        await asyncio.wait({task})
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)
    if task.cancelled() and signalled:
        raise Stopped(signalled[0])
    return task.result()


def _ignores_hangup(number: signal.Signals) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
