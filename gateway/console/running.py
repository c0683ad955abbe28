"""Running a command's coroutine to its end, to its time limit, or to the first signal to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar

from millstream.gateway.exits import ExitCode, Stopped

__all__ = ["run", "run_within"]

T = TypeVar("T")

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

CLOSING_MAX_S: Final = 2.0
"""So long may clients take to close behind a time limit: a broker that hangs answers none."""


def run(main: Coroutine[object, object, T], *, interrupted: Callable[[], bool] | None = None) -> T:
    """Run a coroutine in an event loop of its own and give what it returns.

    SIGINT, SIGTERM and SIGHUP cancel it, each time they come: what it stops in its `finally` with
    patience it must give up at the second. SIGHUP stays ignored where whoever started us ignores
    it, as `nohup` does. `interrupted` is asked first at a SIGINT, in the loop: where it
    says that it has dealt with it, nothing is cancelled. Raises `Stopped` once it has ended.
    """
    return asyncio.run(_interruptible(main, interrupted))


def run_within(
    timeout_s: float, main: Coroutine[object, object, ExitCode], late: Callable[[], ExitCode]
) -> ExitCode:
    """Run a coroutine as `run` does, for at most `timeout_s`, whatever it then waits for.

    When that is over, `late` is asked how the command ends, and says what there is to say. Clients
    have two seconds more to close; then the process ends with that code.
    """
    closing: list[threading.Timer] = []
    try:
        return asyncio.run(_limited(timeout_s, main, late, closing))
    finally:
        # The loop's own end is awaited too: tasks of clients that heed no cancel hold it up.
        for timer in closing:
            timer.cancel()


async def _limited(
    timeout_s: float,
    main: Coroutine[object, object, ExitCode],
    late: Callable[[], ExitCode],
    closing: list[threading.Timer],
) -> ExitCode:
    running = asyncio.ensure_future(_interruptible(main, None))
    done, _ = await asyncio.wait({running}, timeout=timeout_s)
    if done:
        return running.result()
    code = late()
    timer = threading.Timer(CLOSING_MAX_S, _end, (code,))
    timer.daemon = True
    closing.append(timer)
    timer.start()
    running.cancel()
    # What its clean-up raises comes too late to be told.
    await asyncio.gather(running, return_exceptions=True)
    return code


def _end(code: ExitCode) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # also where their disk is full, or their reader gone
        os._exit(code)


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

    heeded = [number for number in _STOP_SIGNALS if not _ignores_hangup(number)]
    for number in heeded:
        loop.add_signal_handler(number, stop, number)
    try:
        # Not awaited directly: a cancelled task and a cancelled self could not be told apart.
        await asyncio.wait({task})
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled() and signalled:
        raise Stopped(signalled[0])
    return task.result()


def _ignores_hangup(number: signal.Signals) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
