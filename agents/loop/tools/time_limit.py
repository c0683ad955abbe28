"""The time that a tool's call may take, by its rules or its template."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from millstream.schemas.runs.errors import ToolStuck

__all__ = ["ToolTimedOut", "within"]


class ToolTimedOut(TimeoutError):
    """A call took longer than it may.

    `begun`: the tool was called, so it may have done what it does. `is_stuck`: its thread goes on.
    """

    def __init__(self, message: str, *, begun: bool = True, is_stuck: bool = False) -> None:
        super().__init__(message)
        self.begun = begun
        self.is_stuck = is_stuck


async def within(name: str, timeout_s: float | None, call: Awaitable[Any], begun: list[Any]) -> Any:
    """Await a tool's call for so many seconds; `begun` is not empty once the tool is called.

    Raises `ToolTimedOut` beyond that, and whatever the tool raises, also its own `TimeoutError`. A
    thread that ended while it was waited for has answered, if late: `begun` has its end behind.
    """
    if timeout_s is None:
        return await call
    try:
        async with asyncio.timeout(timeout_s) as timer:
            return await call
    except (TimeoutError, ToolStuck) as error:
        if not timer.expired():
            raise
        if not begun:
            message = (
                f"the tool {name!r} was not called: all threads of its template were busy for "
                f"{timeout_s:g} s"
            )
            raise ToolTimedOut(message, begun=False) from error
        if len(begun) == 1:
            message = f"the tool {name!r} did not answer within {timeout_s:g} s"
            raise ToolTimedOut(message, is_stuck=isinstance(error, ToolStuck)) from error
    # Else a call that is known to be made would be made again, or be in doubt. Not where the time
    # is told: what the thread raised does not come from that.
    return begun[1].result()
