"""Several answers in one terminal: one at a time as it is written, the others wait their turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from millstream.gateway.console.cleaning import harmless
from millstream.gateway.console.rendering import money, reason_text, tokens_text
from millstream.schemas.events import AgentResult, AgentToken
from millstream.streams.bus.answer import Answer, Ended, Piece, StartedAnew, Text
from millstream.streams.bus.api import Delivery

__all__ = ["Stage"]

_INDENT = "    "
_BEGINS_ANEW = "(an attempt failed or was lost, the answer begins anew)"


@dataclass(slots=True)
class _Part:
    """One request's answer, and how much of it was printed."""

    title: str
    answer: Answer = field(default_factory=Answer)
    text: str = ""
    result: AgentResult | None = None
    begun: bool = False
    printed: int = 0
    restarted: bool = False

    def take(self, piece: Piece) -> None:
        """Note what a piece says."""
        match piece:
            case Text(text=text):
                self.text += text
            case StartedAnew():
                # Nothing begins anew where nothing of it was shown.
                self.text, self.restarted = "", self.restarted or self.printed > 0
            case Ended(result=result):
                self.result = result


class Stage:
    """Prints the answers of some requests; those turned away are kept for afterwards.

    `titles` says by request id what was asked. `write` takes text that needs no further line break
    or that goes on in the same line.
    """

    def __init__(self, titles: dict[str, str], write: Callable[[str], None]) -> None:
        self._parts = {request_id: _Part(title) for request_id, title in titles.items()}
        self._write = write
        self._order: list[str] = []
        self.rejected: dict[str, AgentResult] = {}

    @property
    def waiting(self) -> tuple[str, ...]:
        """Ids of the requests whose result has not come."""
        return tuple(one for one, part in self._parts.items() if part.result is None)

    @property
    def tokens_seen(self) -> bool:
        """Whether any token was printed."""
        return any(part.printed for part in self._parts.values())

    def take(self, delivery: Delivery) -> None:
        """Take a token or result; prints what it adds to the answer whose turn it is."""
        event = delivery.event
        if not isinstance(event, AgentToken | AgentResult) or event.request_id not in self._parts:
            return
        part = self._parts[event.request_id]
        for piece in part.answer.take(delivery):
            part.take(piece)
        if part.result is not None and part.result.status == "rejected":
            self.rejected[event.request_id] = part.result
            return
        if event.request_id not in self._order:
            self._order.append(event.request_id)
        self._print()

    def _print(self) -> None:
        """Print what the first in order has; with its result the turn goes to the next."""
        while self._order:
            part = self._parts[self._order[0]]
            if part.restarted:
                self._write(f"\n{_INDENT}{_BEGINS_ANEW}\n{_INDENT}")
                part.printed, part.restarted = 0, False
            elif not part.begun:
                self._write(f"\n  {part.title}\n{_INDENT}")
            text = harmless(part.text[part.printed :]).replace("\n", f"\n{_INDENT}")
            part.begun, part.printed = True, len(part.text)
            self._write(text)
            result = part.result
            if result is None:
                return
            self._write(f"\n{_INDENT}── {_ending(result)}\n")
            del self._order[0]


def _ending(result: AgentResult) -> str:
    if result.status != "completed":
        return f"{result.status}, {reason_text(result.reason)}"
    return f"completed by {result.model}: {tokens_text(result.usage)}, {money(result.cost_micros)}"
