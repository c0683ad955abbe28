"""Threads for what an agent's code hands to its loop's default pool, as models that block do.

A pool of few threads is full once as many calls hang, and a thread cannot be stopped: one model
that does not answer would hold up whatever else needs a thread (langchain-aws#391).
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from typing_extensions import override

from millstream.agents.loop.containment import CodeStopped
from millstream.agents.threads import Threads
from millstream.schemas.errors import Retryable

__all__ = ["THREADS_MAX", "CallThreads"]

T = TypeVar("T")

THREADS_MAX: Final = 256
"""Most calls in threads of one loop at once, those that hang among them."""


class CallThreads(ThreadPoolExecutor):
    """Runs each call in a thread that no other waits for, and that cannot keep the process alive.

    A loop takes nothing but a `ThreadPoolExecutor` as its default; the pool itself has no threads.
    """

    def __init__(self, *, threads_max: int = THREADS_MAX) -> None:
        super().__init__(max_workers=1)
        self._calls = Threads()
        self._free = threading.BoundedSemaphore(threads_max)
        self._threads_max = threads_max

    @override
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call a function; raises `Retryable` where there are as many threads as may be."""
        if not self._free.acquire(blocking=False):
            raise Retryable(f"{self._threads_max} calls in threads are under way, or hang")
        future: Future[T] = Future()
        context = contextvars.copy_context()

        def call() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    future.set_result(context.run(fn, *args, **kwargs))
            except GeneratorExit as error:
                future.set_exception(CodeStopped(error))
            # Whatever it is, it is raised again where the call is awaited.
            except BaseException as error:  # noqa: BLE001
                future.set_exception(error)
            finally:
                self._free.release()

        self._calls.run("agents-call", call)
        return future
