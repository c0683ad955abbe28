"""Threads for code that blocks: a call gets one that is idle, or a new one, and never waits.

A pool of few threads is full once as many calls hang, and a thread cannot be stopped. To start one
for each call takes longer than most calls do. So a thread that is done stays for the next call.
"""

from __future__ import annotations

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
            takes_idle = self._idle > 0
            self._idle -= takes_idle
        if takes_idle:
            self._waiting.put((name, call))
        else:
            threading.Thread(target=self._serve, args=(name, call), name=name, daemon=True).start()

    def _serve(self, name: str, call: Callable[[], None]) -> None:
        thread = threading.current_thread()
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
                # A call is on its way to each thread that waits, this one among them.
                name, call = self._waiting.get()
