"""The event loop that agents run on: what a run hands to it cannot end it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import uvloop
from typing_extensions import override

from millstream.agents.hosting.call_threads import CallThreads
from millstream.agents.loop.containment import contain_tasks, contained_callback

__all__ = ["AgentsEventLoop"]

_PYTHON = frozenset({FunctionType, MethodType, partial})


def _held(callback: Callable[..., object], context: Context | None) -> Callable[..., object]:
    # Most callbacks are steps of tasks, which are none of these. `sys.exit` is one of a module.
    kind = type(callback)
    if kind in _PYTHON or (kind is BuiltinFunctionType and type(callback.__self__) is ModuleType):  # type: ignore[attr-defined]
        return contained_callback(callback, context)
    return callback


class AgentsEventLoop(uvloop.Loop):
    """A loop whose tasks and callbacks of runs are contained, and known as theirs.

    Its default pool has a thread for each call.
    """

    def __init__(self) -> None:
        super().__init__()
        contain_tasks(self)
        self.set_default_executor(CallThreads())

    @override
    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Call a callback in the loop's next turn."""
        return super().call_soon(_held(callback, context), *args, context=context)

    @override
    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call a callback in `delay` seconds."""
        return super().call_later(delay, _held(callback, context), *args, context=context)

    @override
    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call a callback at a time of the loop's clock."""
        return super().call_at(when, _held(callback, context), *args, context=context)

    @override
    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Call a callback in the loop's next turn, from any thread."""
        return super().call_soon_threadsafe(_held(callback, context), *args, context=context)
