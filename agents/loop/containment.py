"""What keeps that which a run's code raises inside the run.

asyncio hands `SystemExit` and `KeyboardInterrupt` on from whatever task raised them to the loop
itself, which ends, and every other run with it. LangGraph makes a task of each node, callbacks and
tools make others, so no `except` around the run's own coroutine would see them in time. While a run
is under way, each task that is made in its context is one that raises `CodeStopped` instead.

A thread that a run's code makes belongs to the run as well: it gets the run's context, as a task
does, so that a model that is called there is charged to the run. Python leaves that to whoever
makes the thread; OpenTelemetry's instrumentation of threads does the same.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import cache, wraps
from time import monotonic
from types import CoroutineType, FrameType
from typing import Any, Final

from millstream.agents.loop.under_way import UnderWay
from millstream.schemas.reasons import words_of

__all__ = [
    "CodeStopped",
    "ContainedRun",
    "contain_tasks",
    "contained_callback",
    "enter_run",
    "is_cancelled_from_outside",
    "raised_by_code",
    "run_at",
    "run_now",
    "stops_run",
]

_ENDS_THE_LOOP: Final = (SystemExit, KeyboardInterrupt)
# A future that holds the last one closes the coroutines of those who await it, one after the other.
_NOT_A_TASKS: Final = (*_ENDS_THE_LOOP, GeneratorExit)
_CAUSES_MAX: Final = 8
_POOLS: Final = ThreadPoolExecutor.__module__

_in_run: ContextVar[UnderWay | None] = ContextVar("millstream_in_run", default=None)

TaskFactory = Callable[..., asyncio.Future[Any]]


class CodeStopped(Exception):
    """A run's code raised what ends a process or a coroutine, and no task; `raised` is what."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__(f"{type(raised).__name__}: {words_of(raised)}")
        self.raised = raised


class ContainedRun:
    """Holds a run's tasks to `CodeStopped` inside its `with` block, on the running loop."""

    __slots__ = ("_token", "_under_way")

    def __init__(self, under_way: UnderWay) -> None:
        self._under_way = under_way

    def __enter__(self) -> None:
        """Begin."""
        contain_tasks(asyncio.get_running_loop())
        _carry_context_to_threads()
        self._token = _in_run.set(self._under_way)

    def __exit__(self, *_: object) -> None:
        """End."""
        # The garbage collector closes a run that nobody ended outside of its context.
        with suppress(ValueError):
            _in_run.reset(self._token)


def contain_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Have a loop's tasks of runs end in `CodeStopped` where they would end the loop."""
    factory = loop.get_task_factory()
    if not isinstance(factory, _ContainingTasks):
        loop.set_task_factory(_ContainingTasks(factory))  # type: ignore[arg-type]


def run_now() -> UnderWay | None:
    """Give the run whose code calls this."""
    return _in_run.get()


def enter_run(under_way: UnderWay) -> None:
    """Make the current context that of a run."""
    _in_run.set(under_way)


def contained_callback(
    callback: Callable[..., object], context: Context | None
) -> Callable[..., object]:
    """Give a callback for a loop to call: one of a run ends the run where it would end the loop."""
    under_way = _in_run.get() if context is None else context.get(_in_run)
    return callback if under_way is None else _ContainedCallback(callback, under_way)


def run_at(frame: FrameType) -> UnderWay | None:
    """Give the run whose step a frame is the outermost one of."""
    if frame.f_code in _OUTERMOST:
        return getattr(frame.f_locals.get("self"), "under_way", None)
    return None


def is_cancelled_from_outside(task: asyncio.Task[Any] | None, error: BaseException) -> bool:
    """Tell whether `error` ends the `task` that it is caught in, rather than what the task runs.

    A task that somebody cancelled says so itself. `GeneratorExit` is the task's end where it comes
    from the garbage collector, which closes coroutines outside their tasks.
    """
    if isinstance(error, asyncio.CancelledError):
        return task is not None and task.cancelling() > 0
    return isinstance(error, GeneratorExit) and _current_task() is not task


def raised_by_code(error: BaseException) -> BaseException:
    """Give what the run's code raised: the error itself, or what `CodeStopped` stands for."""
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if isinstance(cause, CodeStopped):
            return cause.raised
        if cause is None:
            break
        cause = cause.__cause__
    return error


def stops_run(error: BaseException) -> bool:
    """Tell whether an error is, comes from, or holds beside others what would end the process."""
    if isinstance(error, BaseExceptionGroup):
        return any(stops_run(one) for one in error.exceptions)
    return isinstance(raised_by_code(error), (*_NOT_A_TASKS, asyncio.CancelledError))


class _ContainingTasks:
    """A loop's task factory: as the one before it, but for tasks made in the context of a run."""

    def __init__(self, before: TaskFactory | None) -> None:
        self._before = before

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any],
        *,
        context: Context | None = None,
        **kwargs: Any,
    ) -> asyncio.Future[Any]:
        under_way = _in_run.get() if context is None else context.get(_in_run)
        if under_way is not None and type(coro) is CoroutineType:
            coro = _Contained(coro, under_way)
        if self._before is not None:
            return self._before(loop, coro, context=context, **kwargs)
        return asyncio.Task(coro, loop=loop, context=context, **kwargs)


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine that ends in `CodeStopped` where another one would end more than its task."""

    # Not an `async def` around it: a task that is cancelled before its first step would leave the
    # inner coroutine unawaited.
    __slots__ = ("_inner", "under_way")

    def __init__(self, inner: Coroutine[Any, Any, Any], under_way: UnderWay) -> None:
        self._inner = inner
        self.under_way = under_way

    def send(self, value: Any) -> Any:
        under_way = self.under_way
        under_way.step_at_s = began_s = monotonic()
        try:
            return self._inner.send(value)
        except _NOT_A_TASKS as raised:
            raise CodeStopped(raised) from raised
        finally:
            if monotonic() - began_s > under_way.long_s:
                under_way.step_was_long(began_s, monotonic() - began_s)

    def throw(self, *raising: Any) -> Any:
        under_way = self.under_way
        under_way.step_at_s = began_s = monotonic()
        try:
            return self._inner.throw(*raising)
        except _NOT_A_TASKS as raised:
            raise CodeStopped(raised) from raised
        finally:
            if monotonic() - began_s > under_way.long_s:
                under_way.step_was_long(began_s, monotonic() - began_s)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:
        # Its frame and code, which a task's stack is read from.
        return getattr(self._inner, name)


class _ContainedCallback:
    """A callback of a run."""

    __slots__ = ("_callback", "under_way")

    def __init__(self, callback: Callable[..., object], under_way: UnderWay) -> None:
        self._callback = callback
        self.under_way = under_way

    def __call__(self, *args: Any) -> None:
        under_way = self.under_way
        under_way.step_at_s = began_s = monotonic()
        try:
            self._callback(*args)
        except _ENDS_THE_LOOP as raised:
            if under_way.stop is None:
                raise
            under_way.stop(raised)
        finally:
            if monotonic() - began_s > under_way.long_s:
                under_way.step_was_long(began_s, monotonic() - began_s)


_OUTERMOST: Final = frozenset(
    {_Contained.send.__code__, _Contained.throw.__code__, _ContainedCallback.__call__.__code__}
)


@cache
def _carry_context_to_threads() -> None:
    """Have threads that are made, and calls that are handed to them, in a run's context run in it.

    Once for the process. What is made outside of runs is as before; so is a pool's thread itself,
    which outlives the run that was the first to need it.
    """
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit

    @wraps(start)
    def start_in_context(thread: threading.Thread) -> None:
        is_of_pool = getattr(getattr(thread, "_target", None), "__module__", "") == _POOLS
        if _in_run.get() and not is_of_pool:
            context, run = copy_context(), thread.run

            def run_in_context() -> None:
                # Else thread and method hold each other, and all that the run was made of.
                del thread.run
                context.run(run)

            thread.run = run_in_context  # type: ignore[method-assign]
        start(thread)

    @wraps(submit)  # type: ignore[arg-type]
    def submit_in_context(
        pool: ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        if _in_run.get():
            return submit(pool, copy_context().run, function, *args, **kwargs)
        return submit(pool, function, *args, **kwargs)

    threading.Thread.start = start_in_context  # type: ignore[method-assign, assignment]
    ThreadPoolExecutor.submit = submit_in_context  # type: ignore[method-assign, assignment]


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
