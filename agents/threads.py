"""Threads for code that blocks: a call gets one that is idle, or a new one, and never waits.

A pool of few threads is full once as many calls hang, and a thread cannot be stopped. To start one
for each call takes longer than most calls do. So a thread that is done stays for the next call.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

__all__ = ["Threads"]

IDLE_S: Final = 10.0
"""How long a thread stays without a call."""


class Threads:
    """Daemon threads: what hangs in one keeps no other waiting, nor the process from ending."""

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[tuple[str, Callable[[], None]]] = SimpleQueue()
        # Threads that wait for a call, but for those that one is on its way to.
        self._idle = 0

    def run(self, name: str, call: Callable[[], None]) -> None:
        """Make a call, which must raise nothing, in a thread that is called `name` meanwhile."""
        with self._lock:
            is_one_idle = self._idle > 0
            self._idle -= is_one_idle
        # Not handed to a thread as it starts: that holds on to it for as long as it lives.
        self._waiting.put((name, call))
        if not is_one_idle:
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            # In none of the run that is the first to call: it lives on after it.
            contextvars.Context().run(thread.start)

    def _serve(self) -> None:
        thread = threading.current_thread()
        # A call is on its way to each thread that was started, and to each that is not idle.
        name, call = self._waiting.get()
        while True:
            thread.name = name
            call()
            # What it held must not live on with the thread.
            del call
            thread.name = "agents-idle"
            with self._lock:
                self._idle += 1
            try:
                name, call = self._waiting.get(timeout=self._idle_s)
            except Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        return
                # One came meanwhile.
                name, call = self._waiting.get()
