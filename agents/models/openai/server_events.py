"""Server-sent events, read from pieces of a body in whatever places it was cut."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from millstream.schemas.errors import ModelFailed

__all__ = ["EVENT_BYTES_MAX", "EventReader", "ServerEvent"]

EVENT_BYTES_MAX: Final = 8_388_608
"""Of one event: an answer of 256 KiB in one piece, escaped, with room for what is around it."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: its data, lines joined, and its name, `None` where it has none."""

    data: bytes
    name: bytes | None = None


class EventReader:
    """Makes events of pieces of a body (WHATWG's HTML standard, section 9.2.6).

    What it holds is at most one event, of `EVENT_BYTES_MAX` bytes. An event without data is none,
    its name is forgotten: so do some gateways keep a connection alive.
    """

    __slots__ = ("_data", "_is_first", "_name", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._is_first = True
        self._data: list[bytes] = []
        self._name: bytes | None = None

    def read(self, piece: bytes) -> Iterator[ServerEvent]:
        """Give the events that this piece completes. Raises `ModelFailed` for one without end."""
        text = self._rest + piece if self._rest else piece
        if b"\r" in text:
            # A line ends by either or both; of both, the other half may come with the next piece.
            self._rest = b"\r" if text.endswith(b"\r") else b""
            text = text.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        else:
            self._rest = b""
        lines = text.split(b"\n")
        self._rest = lines.pop() + self._rest
        if len(self._rest) > EVENT_BYTES_MAX or sum(map(len, self._data)) > EVENT_BYTES_MAX:
            message = f"the model's provider sent an event of more than {EVENT_BYTES_MAX} bytes"
            raise ModelFailed(message, may_cost=True)
        if self._is_first and lines:
            self._is_first = False
            lines[0] = lines[0].removeprefix(BOM_UTF8)
        for line in lines:
            if line:
                self._take(line)
            elif (event := self._ended()) is not None:
                yield event

    def end(self) -> Iterator[ServerEvent]:
        """Give the event that the body ended in, which some servers leave without its last line."""
        if self._is_first:
            self._rest = self._rest.removeprefix(BOM_UTF8)
        if self._rest.strip():
            self._take(self._rest.strip(b"\r"))
        if (event := self._ended()) is not None:
            yield event

    def _take(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value

    def _ended(self) -> ServerEvent | None:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        event = ServerEvent(data, self._name) if data and not data.isspace() else None
        self._data = []
        self._name = None
        return event
