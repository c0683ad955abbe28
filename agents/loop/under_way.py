"""What an attempt does at this moment, for whoever looks from another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any, Protocol

from millstream.schemas.base import CallUsage

__all__ = ["Spending", "UnderWay"]


class Spending(Protocol):
    """What an attempt has used so far; its `CallMeter` is one."""

    @property
    def over(self) -> tuple[CallUsage, ...]:
        """What the calls that are over used."""
        ...

    def close(self) -> tuple[CallUsage, ...]:
        """Give what all calls used; those under way are cut off, and estimated."""
        ...


@dataclass(slots=True, eq=False)
class UnderWay:
    """One attempt. It is written by the thread that runs the attempt, and only read by others.

    Attributes:
        tools: The tools that it calls right now, by the task that calls.
        spending: What it has used, once it has begun.
        stop: Ends it, from inside its own loop, by an error that one of its callbacks raised.
        step_at_s: When its newest step began, by the monotonic clock: its loop turns between two.
        long_s: A step of more seconds than this is told of once it is over.
        tell_long: Is told, in its own loop: when the step began, how long it took, and the tool.
    """

    tools: dict[asyncio.Task[Any] | None, str] = field(default_factory=dict)
    spending: Spending | None = None
    stop: Callable[[BaseException], None] | None = None
    step_at_s: float = 0.0
    long_s: float = inf
    tell_long: Callable[[float, float, str | None], None] | None = None
    _last: str | None = None
    _last_at_s: float = 0.0

    @contextmanager
    def calling(self, tool: str) -> Iterator[None]:
        """Note that the current task calls a tool."""
        task = asyncio.current_task()
        self.tools[task] = tool
        try:
            yield
        finally:
            self.tools.pop(task, None)
            self._last, self._last_at_s = tool, monotonic()

    def step_was_long(self, began_s: float, took_s: float) -> None:
        """Tell of a step that is just over."""
        if self.tell_long is None:
            return
        tool = self.tool_of(asyncio.current_task())
        if tool is None and self._last_at_s >= began_s:
            tool = self._last
        self.tell_long(began_s, took_s, tool)

    def tool_of(self, task: asyncio.Task[Any] | None) -> str | None:
        """Give the tool that a task calls; of another task, all that are called, if any."""
        mine = self.tools.get(task)
        if mine is not None:
            return mine
        names: Sequence[str] = sorted(set(self.tools.copy().values()))
        return ", ".join(names) or None
