"""Runs of one session one at a time, in order; different sessions side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable

Job = Callable[[], Coroutine[None, None, None]]


class SessionQueues:
    """One queue per session that has work, each worked off by a task that ends when it is empty.

    `on_failure` is told of an exception that a job lets out, also of a cancellation that did not
    come from here; the queue's other jobs are dropped, since what comes after in that session must
    not overtake it.
    """

    def __init__(self, on_failure: Callable[[BaseException], None]) -> None:
        self._queues: dict[Hashable, deque[Job]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_failure = on_failure
        self._cancelled = False

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """Give the tasks that are at work, one per session."""
        return set(self._tasks)

    def submit(self, session: Hashable, job: Job) -> None:
        """Queue a job behind those of its session."""
        queue = self._queues.get(session)
        if queue is not None:
            queue.append(job)
            return
        self._queues[session] = deque([job])
        task = asyncio.create_task(self._work(session))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def cancel(self) -> None:
        """Cancel all that runs and forget all that waits."""
        self._cancelled = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._queues.clear()

    async def _work(self, session: Hashable) -> None:
        queue = self._queues[session]
        while queue:
            try:
                await queue[0]()
            # From a task's own step these would end the loop, and the worker with it.
            except (SystemExit, KeyboardInterrupt) as raised:
                message = f"a job of a session raised {raised!r}"
                raise RuntimeError(message) from raised
            queue.popleft()
        del self._queues[session]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            if not self._cancelled:
                self._on_failure(asyncio.CancelledError("a job of a session cancelled itself"))
        elif (error := task.exception()) is not None:
            self._on_failure(error)
