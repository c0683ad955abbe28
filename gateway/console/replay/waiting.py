"""How far a command has read, for whoever waits at a terminal for more than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from millstream.gateway.console.terminal import progress_console

__all__ = ["Waiting"]

_FROM_S: Final = 2.0
_EVERY_S: Final = 0.2


class Waiting:
    """A bar on standard error, with how many records are read of how many, and the time left.

    It is there only where standard error is a terminal, and where nothing has been shown for 2 s.
    Use it as a context; the bar is gone at its end.
    """

    def __init__(
        self,
        doing: str,
        *,
        console: Console | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._doing = doing
        self._console = console or progress_console()
        self._clock_s = clock_s
        self._since_s = clock_s()
        self._drawn_s = 0.0
        self._bar: Progress | None = None

    def told(self, done: int, total: int) -> None:
        """Show how many records are read, and how many there are at most."""
        if not self._console.is_terminal:
            return
        now_s = self._clock_s()
        if self._bar is None:
            if now_s - self._since_s < _FROM_S:
                return
            self._bar = self._started(total)
        elif now_s - self._drawn_s < _EVERY_S:
            return
        self._drawn_s = now_s
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        self._bar.refresh()

    def clear(self) -> None:
        """Make room for data, if that goes to a terminal too; the bar comes after 2 s more."""
        if sys.stdout.isatty():
            self._since_s = self._clock_s()
            self._end()

    def __enter__(self) -> Self:
        """Begin to wait."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._end()

    def _started(self, total: int) -> Progress:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("records,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        bar.add_task(self._doing, total=total)
        bar.start()
        return bar

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
