"""Calls from one thread to be made on the event loop of another."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["Mailbox"]


class Mailbox:
    """Makes calls on a loop, in the order in which they were posted; many for one wake-up of it.

    Where a loop posts, the other is woken at the end of its turn: to wake a thread costs more than
    most calls. So a mailbox is for one loop that posts; from outside of loops anybody may.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_awake = False
        # Of whoever makes it: what is posted in the midst of a run is no part of the run.
        self._context = contextvars.copy_context()
        # One for each thread: a context cannot be entered in two at once.
        self._waking = contextvars.copy_context()

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Have a call made. Does nothing if the loop is closed."""
        self._posted.append((call, args))
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            self._wake()  # nobody is sure to end a turn here
            return
        if not self._is_awake:
            self._is_awake = True
            here.call_soon(self._wake, context=self._waking)

    def _wake(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver, context=self._context)

    def _deliver(self) -> None:
        # Before anything is taken: what is posted after the last was taken wakes the loop again.
        self._is_awake = False
        posted = self._posted
        try:
            while posted:
                call, args = posted.popleft()
                call(*args)
        finally:
            if posted:
                self._loop.call_soon(self._deliver, context=self._context)
