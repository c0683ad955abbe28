"""Ending a process that was told to end and does not: by force, and saying what it waits for."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
from collections.abc import Callable

from millstream.gateway.exits import ExitCode

__all__ = ["end_well_within", "end_within"]

_FRAMES_TOLD = 6


def end_within(limit_s: float) -> None:
    """End this process in `limit_s`, unless it has ended by itself until then.

    What it had not committed is done again by whoever takes over. Call it in the event loop.
    """
    _after(limit_s, _end, asyncio.get_running_loop(), limit_s)


def end_well_within(limit_s: float) -> None:
    """End this process with 0 in `limit_s`, unless it has ended by itself until then.

    For one whose work is done, but for tasks of clients that heed no cancel.
    """
    _after(limit_s, _end_well)


def _after(limit_s: float, do: Callable[..., object], *arguments: object) -> None:
    timer = threading.Timer(limit_s, do, arguments)
    timer.daemon = True
    timer.start()


def _end_well() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # also where their disk is full, or their reader gone
        os._exit(ExitCode.OK)


def _end(loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
    try:
        sys.stderr.write(f"it was told to end and has not in {limit_s:.0f} s; what it waits for:\n")
        for task in asyncio.all_tasks(loop):
            task.print_stack(limit=_FRAMES_TOLD, file=sys.stderr)
        faulthandler.dump_traceback(all_threads=True)
        sys.stderr.flush()
    finally:  # also where what it waits for cannot be told
        os._exit(ExitCode.FAILED)
