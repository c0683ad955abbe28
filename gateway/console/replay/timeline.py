"""History as a timeline: a line per record, except that tokens written in a row make one line."""

from __future__ import annotations

from collections.abc import AsyncIterator

from millstream.gateway.console.rendering import entry_line, written_line
from millstream.schemas.events import AgentToken
from millstream.streams.bus.api import Delivery, Unreadable

__all__ = ["timeline"]

_TEXT_CHARACTERS_MAX = 4000


async def timeline(
    entries: AsyncIterator[Delivery | Unreadable], namespace: str, *, partitions: int | None = None
) -> AsyncIterator[str]:
    """Give the lines of a replay, as it goes on."""
    row = _Row(namespace)
    async for entry in entries:
        if row.takes(entry):
            continue
        for line in row.end():
            yield line
        if not row.takes(entry):
            yield entry_line(entry, namespace, partitions=partitions)
    for line in row.end():
        yield line


class _Row:
    """Tokens of one attempt that stand in a row."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._first: Delivery | None = None
        self._last: Delivery | None = None
        self._text = ""

    def takes(self, entry: Delivery | Unreadable) -> bool:
        """Take a token that goes on where the last one ended, or begins a row."""
        if isinstance(entry, Unreadable) or not isinstance(entry.event, AgentToken):
            return False
        if self._last is not None and not _follows(self._last.event, entry.event):
            return False
        self._first = self._first or entry
        self._last = entry
        if len(self._text) < _TEXT_CHARACTERS_MAX:
            self._text += entry.event.text
        return True

    def end(self) -> list[str]:
        """Give the row's line, if there is one, and begin another."""
        if self._first is None or self._last is None:
            return []
        line = written_line(self._first, self._last, self._text, self._namespace)
        self._first = self._last = None
        self._text = ""
        return [line]


def _follows(last: object, token: AgentToken) -> bool:
    return isinstance(last, AgentToken) and (
        last.tenant,
        last.user_id,
        last.request_id,
        last.attempt,
        last.seq + 1,
    ) == (token.tenant, token.user_id, token.request_id, token.attempt, token.seq)
