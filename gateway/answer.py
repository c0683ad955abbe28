"""One answer, put together from its tokens and its result as they arrive, for showing it at once.

Tokens and the result stand on two topics, so the result may be read before the last tokens: it
carries the whole text, and what was not shown yet is taken from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.events import AgentResult, AgentToken

__all__ = ["Answer", "Piece"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to show next; `restarted` says that what was shown before is no part of the answer."""

    text: str
    restarted: bool = False


@dataclass(slots=True)
class Answer:
    """The newest attempt's text. Not yet shown pieces are given out in order, none twice."""

    attempt: int = -1
    shown: str = ""
    result: AgentResult | None = None
    _next_seq: int = 0
    _early: dict[int, str] = field(default_factory=dict)

    def take_token(self, token: AgentToken) -> Piece | None:
        """Take a token; gives what to show, `None` if it is old, known or comes too early."""
        if self.result is not None or token.attempt < self.attempt:
            return None
        restarted = token.attempt > self.attempt and bool(self.shown)
        if token.attempt > self.attempt:
            self.attempt, self.shown, self._next_seq = token.attempt, "", 0
            self._early.clear()
        if token.seq < self._next_seq:
            return None
        self._early[token.seq] = token.text
        text = ""
        while self._next_seq in self._early:
            text += self._early.pop(self._next_seq)
            self._next_seq += 1
        self.shown += text
        return Piece(text, restarted) if text or restarted else None

    def take_result(self, result: AgentResult) -> Piece | None:
        """Take the result; gives the rest of the answer, `None` where all of it was shown."""
        if self.result is not None:
            return None
        self.result = result
        if result.output is None:
            return None
        if result.attempt == self.attempt and result.output.startswith(self.shown):
            rest = result.output[len(self.shown) :]
            self.shown = result.output
            return Piece(rest) if rest else None
        restarted = bool(self.shown)
        self.attempt, self.shown = result.attempt, result.output
        return Piece(result.output, restarted)
