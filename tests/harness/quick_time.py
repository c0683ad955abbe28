"""A loop on which idle time passes quickly: waits between attempts take a test no time.

Whatever computes or comes through a socket takes as long as it takes. Only where nothing happens
the clock goes on: by up to a second for each few milliseconds, so that what a thread still does is
not overtaken by a time-out of minutes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from typing_extensions import override

from millstream.agents.executor import wall_clock_ms

__all__ = ["QuickLoop", "run_quickly"]

T = TypeVar("T")

_LOOK_S: Final = 0.004
_SKIP_MAX_S: Final = 1.0


class _QuickSelector(selectors.DefaultSelector):  # type: ignore[valid-type, misc]
    """Waits a few milliseconds for events and skips the rest of the wait; counts what it skips."""

    skipped_s = 0.0

    @override
    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= _LOOK_S:
            return super().select(timeout)
        events = super().select(_LOOK_S)
        if not events:
            self.skipped_s += min(timeout - _LOOK_S, _SKIP_MAX_S)
        return events


class QuickLoop(asyncio.SelectorEventLoop):
    """The loop, and the wall clock that goes with it."""

    def __init__(self) -> None:
        self._quick = _QuickSelector()
        super().__init__(self._quick)
        self._told_ms = 0

    @override
    def time(self) -> float:
        return super().time() + self._quick.skipped_s

    def clock_ms(self) -> int:
        """Give the time in milliseconds since the epoch."""
        return wall_clock_ms() + round(self._quick.skipped_s * 1000)

    def strict_clock_ms(self) -> int:
        """Give the time as a broker tells it: no two records have the same."""
        self._told_ms = max(self._told_ms + 1, self.clock_ms())
        return self._told_ms


def run_quickly(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own on which idle time passes quickly."""
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        return runner.run(main)
