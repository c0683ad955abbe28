"""The log's lines of dead letters: bounded, since one batch may hold a million bad records."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from millstream.schemas.dead_letters import DeadLetter

__all__ = ["LINES_MAX", "LetterLog"]

LINES_MAX: Final = 10
"""So many of a partition's dead letters have a line of their own in each stretch of time."""

_STRETCH_S = 1.0

log = structlog.get_logger(__name__)


class LetterLog:
    """Tells of each dead letter, and of those beyond `LINES_MAX` a second how many they were.

    To write a line takes as long as a good part of burying a record, and those behind it wait.
    """

    def __init__(self, *, stretch_s: float = _STRETCH_S) -> None:
        self._stretch_s = stretch_s
        self._letters = 0
        self._last: DeadLetter | None = None

    def tell(self, letter: DeadLetter) -> None:
        """Tell of one, now or with others once the stretch is over."""
        if not self._letters:
            asyncio.get_running_loop().call_later(self._stretch_s, self._end_stretch)
        self._letters += 1
        if self._letters <= LINES_MAX:
            log.warning("dead letter", source=str(letter.source), reason=letter.reason.message)
        else:
            self._last = letter

    def _end_stretch(self) -> None:
        more, last = self._letters - LINES_MAX, self._last
        self._letters, self._last = 0, None
        if last is not None:
            log.warning(
                "more dead letters",
                count=more,
                last=str(last.source),
                reason=last.reason.message,
                remedy="`millstream dead-letters list` shows each",
            )
