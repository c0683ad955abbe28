"""The main thread lent to agents, since it is the only one that a signal can interrupt.

What computes in C for long, as a regular expression does, holds Python's interpreter: no other
thread runs meanwhile, on whichever loop. But it looks at signals, and Python handles these in the
main thread, in the midst of whatever runs there. So agents run there, and lanes in another thread;
a timer that counts the CPU's time interrupts an agent that takes long, to let the others run.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final, TypeVar

from millstream.agents.hosting.agents_loop import AgentsLoop, OwnThreads

__all__ = ["MainThread"]

T = TypeVar("T")

_SIGNAL: Final = signal.SIGVTALRM
_EVERY_CPU_S: Final = 0.02


class MainThread(OwnThreads):
    """Gives the main thread to one loop of agents at a time, and further ones threads of their own.

    To be made in the main thread.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[AgentsLoop | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_lent = False
        self._has: AgentsLoop | None = None

    @property
    def has_better(self) -> bool:
        """Whether the main thread is free."""
        return self._is_lent and self._has is None

    def start(self, loop: AgentsLoop) -> None:
        """Have the loop served in the main thread where that is free, else in one of its own."""
        with self._lock:
            is_free = self.has_better
            if is_free:
                self._has = loop
        if is_free:
            self._waiting.put(loop)
        else:
            super().start(loop)

    def interrupt(self, loop: AgentsLoop) -> None:
        """Interrupt the main thread, if the loop is there."""
        if self._has is loop:
            with suppress(ProcessLookupError):
                signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)

    def lend_while(self, work: Callable[[], T]) -> T:
        """Do some work in another thread, and serve loops of agents here until it is done.

        Gives what the work gives, and raises what it raises.
        """
        done: list[Callable[[], T]] = []

        def do() -> None:
            try:
                value = work()
            # Raised again below.
            except BaseException as raised:  # noqa: BLE001
                error = raised

                def fail() -> T:
                    raise error

                done.append(fail)
            else:
                done.append(lambda: value)
            self._is_lent = False
            self._waiting.put(None)

        before = signal.signal(_SIGNAL, self._interrupted)
        # No system call of another thread is to be interrupted.
        signal.pthread_sigmask(signal.SIG_BLOCK, {_SIGNAL})
        self._is_lent = True
        # Not daemonic: what it commits last is not to be cut off.
        threading.Thread(target=do, name="lanes").start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {_SIGNAL})
        signal.setitimer(signal.ITIMER_VIRTUAL, _EVERY_CPU_S, _EVERY_CPU_S)
        try:
            while (loop := self._waiting.get()) is not None:
                loop.serve()
                with self._lock:
                    self._has = None
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(_SIGNAL, before)
        return done[0]()

    def _interrupted(self, _number: int, frame: FrameType | Any) -> None:
        if (loop := self._has) is not None:
            loop.interrupted(frame)
