"""An event loop of agents, in a thread that it has for itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import FrameType
from typing import Final, Protocol

import structlog

from millstream.agents.executor import RunAgent
from millstream.agents.hosting.blocked import Blockage, outermost
from millstream.agents.hosting.event_loop import AgentsEventLoop
from millstream.agents.hosting.hosted_run import HostedRun
from millstream.agents.hosting.mailbox import Mailbox
from millstream.agents.loop.under_way import UnderWay

__all__ = ["AgentsLoop", "AgentsOfLoop", "BuildAgents", "OwnThreads", "Threads"]

BEAT_S: Final = 0.1
_TAKEN_APART_WITHIN_S: Final = 2.0
_TRIES: Final = 5
_OTHERS_RUN_S: Final = 0.01

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AgentsOfLoop:
    """What runs attempts on one loop, and what is to be closed there when the loop ends."""

    run: RunAgent
    close: Callable[[], Awaitable[None]] | None = None


BuildAgents = Callable[[], AgentsOfLoop]
"""Makes what runs attempts on one loop: clients of providers, for one, belong to one."""


class Threads(Protocol):
    """Gives loops of agents their threads."""

    @property
    def has_better(self) -> bool:
        """Whether a loop would now get a thread that can be interrupted, as not all can."""
        ...

    def start(self, loop: AgentsLoop) -> None:
        """Have `loop.serve` called in a thread, which cannot keep the process from ending."""
        ...

    def interrupt(self, loop: AgentsLoop) -> None:
        """Have `loop.interrupted` called in the loop's thread, if that can be."""
        ...


class OwnThreads:
    """Gives each loop a thread of its own, which nobody can interrupt."""

    @property
    def has_better(self) -> bool:
        """All are alike."""
        return False

    def start(self, loop: AgentsLoop) -> None:
        """Start a thread."""
        threading.Thread(target=loop.serve, name=loop.name, daemon=True).start()

    def interrupt(self, loop: AgentsLoop) -> None:
        """Do nothing."""


class AgentsLoop:
    """A loop, its thread and the attempts on it. The lane's loop owns it and asks it by mail.

    On the lane's loop, `failed` is called with what ended it, if it was not asked to end, and
    `over` when its thread is done.

    Attributes:
        lane: What it has to say to the lane's loop.
        runs: The attempts on it that the lane waits for; the lane's side keeps it.
        given_up: It takes no new attempts, since code blocked it.
        beat_at_s: When it last turned, by the monotonic clock.
        at_fault: The attempt whose code blocks it; `None` while none does, or nobody knows.
        told_since_s: When the step began that was last told of as blocking it.
    """

    def __init__(
        self,
        name: str,
        *,
        agents: AgentsOfLoop,
        lane: Mailbox,
        failed: Callable[[AgentsLoop, BaseException], None],
        over: Callable[[AgentsLoop], None],
    ) -> None:
        self.name = name
        self.runs: set[HostedRun] = set()
        self.given_up = False
        self.is_blocked = False
        self.told_since_s = 0.0
        self.at_fault: HostedRun | None = None
        self.beat_at_s = time.monotonic()
        self.thread_id = 0
        self.blockage = Blockage(AgentsLoop.serve.__code__)
        self._loop = AgentsEventLoop()
        self.mail = Mailbox(self._loop)
        self._agents = agents
        self.lane = lane
        self._failed = failed
        self._over = over
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self._to_interrupt: FrameType | None = None

    # On the lane's loop.

    def begin(self, run: HostedRun) -> None:
        """Begin an attempt."""
        self.runs.add(run)
        self.mail.post(self._begin, run)

    def cut(self, run: HostedRun) -> None:
        """Cancel an attempt, as soon as the loop turns."""
        self.mail.post(run.cut)

    def retire(self, *, cut: bool = False) -> None:
        """Have it end once its attempts are over; with `cut`, they are cancelled."""
        self.mail.post(self._retire, cut)

    def task_now(self) -> asyncio.Task[object] | None:
        """Give the task that runs on it now."""
        return asyncio.current_task(self._loop)

    def run_of(self, under_way: UnderWay | None) -> HostedRun | None:
        """Give the attempt that does this."""
        return next((run for run in self.runs if run.under_way is under_way), None)

    def to_interrupt(self, callback: FrameType | None) -> None:
        """Have `interrupted` end this callback, if it still runs then."""
        self._to_interrupt = callback

    # In its thread.

    def serve(self) -> None:
        """Run attempts until it is asked to end; in the thread that is the loop's."""
        self.thread_id = threading.get_ident()
        failure: BaseException | None = None
        try:
            self._beat()
            # Directly: this is the frame above that of each callback (`Blockage`).
            self._loop.run_forever()
        # A callback that is no run's exited, as of a file descriptor.
        except BaseException as raised:  # noqa: BLE001
            failure = raised
        if failure is not None:
            # Before its attempts are cancelled: they are not at fault.
            self.lane.post(self._failed, self, failure)
        self._take_apart()
        self.lane.post(self._over, self)

    def interrupted(self, frame: FrameType | None) -> None:
        """Let other threads run if a callback takes long; end it if the lane said so.

        Called by a signal, between two steps of whatever runs: so it may raise, which is what a
        `KeyboardInterrupt` does too.
        """
        wanted, self._to_interrupt = self._to_interrupt, None
        if wanted is not None and outermost(frame, AgentsLoop.serve.__code__) is wanted:
            message = "it was cut off at its time limit"
            raise asyncio.CancelledError(message)
        if time.monotonic() - self.beat_at_s > BEAT_S * 3:
            # What computes in C holds the interpreter, and looks at signals.
            time.sleep(_OTHERS_RUN_S)

    def _begin(self, run: HostedRun) -> None:
        run.begin(self.mail, self._loop, self._agents.run)
        assert run.task is not None  # noqa: S101  it was just begun
        self._tasks.add(run.task)
        run.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._end_if_idle()

    def _retire(self, cut: bool) -> None:  # noqa: FBT001
        self._is_ending = True
        if cut:
            for task in self._tasks:
                task.cancel()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._is_ending and not self._tasks:
            self._loop.stop()

    def _beat(self) -> None:
        self.beat_at_s = time.monotonic()
        self._loop.call_later(BEAT_S, self._beat)

    def _take_apart(self) -> None:
        """End what is left on the loop, and close it."""
        loop, close = self._loop, self._agents.close
        for _ in range(_TRIES):
            try:
                if left := asyncio.all_tasks(loop):
                    for task in left:
                        task.cancel()
                    loop.run_until_complete(asyncio.wait(left, timeout=_TAKEN_APART_WITHIN_S))
                if close is not None:
                    loop.run_until_complete(asyncio.wait_for(close(), _TAKEN_APART_WITHIN_S))
                loop.run_until_complete(loop.shutdown_asyncgens())
            # What ended it may do so again.
            except BaseException:  # noqa: BLE001
                _log.info("what is left of a loop of agents raised", loop=self.name, exc_info=True)
            else:
                break
        if not loop.is_running():
            loop.close()
