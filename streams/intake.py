"""From a record as it arrived to a request that can be worked on."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from schemas.base import Address
from schemas.errors import Poison, RecordTooLarge, WrongShape
from schemas.events import AgentRequest, DeadLetter, Origin, ResolvedRequest, StageRequest
from schemas.reasons import reason_of
from streams.codec import ORIGIN, decode, header

REQUEST_BYTES_MAX = 950_000
"""Largest record of a request: what it grows by on its way must not pass the broker's limit."""

DEAD_LETTER_BYTES_MAX = 1_400_000
"""Most bytes of a record that its dead letter keeps: in base64 they are a third more."""

_JSON_PER_HEADER_BYTES = 16
_JSON_PER_CHARACTER_BYTES = 6


@dataclass(frozen=True, slots=True)
class InputRecord:
    """A record as a lane gets it; `timestamp` is the broker's, in milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def address(self) -> Address:
        """Where the record stands."""
        return Address(topic=self.topic, partition=self.partition, offset=self.offset)

    @property
    def size_bytes(self) -> int:
        """The bytes of key, value and headers, these as they would be in JSON at worst."""
        headers = sum(
            len(name) * _JSON_PER_CHARACTER_BYTES + len(value or b"") + _JSON_PER_HEADER_BYTES
            for name, value in self.headers
        )
        return len(self.key or b"") + len(self.value or b"") + headers


def read_request(record: InputRecord) -> ResolvedRequest:
    """Read a record of the requests topic; one that was put right keeps the id of its origin.

    Its time is the broker's for this very record. Raises `Poison`.
    """
    if record.size_bytes > REQUEST_BYTES_MAX:
        raise RecordTooLarge(
            f"the record has {record.size_bytes} bytes, a request at most {REQUEST_BYTES_MAX}"
        )
    request = decode(record, AgentRequest)
    given = header(record, ORIGIN)
    if given is None:
        return request.resolved(record.address, record.timestamp)
    try:
        origin = Origin.model_validate_json(given)
    except ValidationError as error:
        raise WrongShape(f"the header {ORIGIN} is not the place of a record: {error}") from None
    # Anybody may write this header. It names the request and no more: were its time taken from
    # it too, a forged one could move a whole partition's windows. One that cannot be true is none.
    moved = origin.source.topic == record.topic and origin.source.partition != record.partition
    return request.resolved(origin.source if moved else record.address, record.timestamp)


def read_stage_request(record: InputRecord) -> StageRequest:
    """Read a record of a topic between two stages. Raises `Poison`."""
    return decode(record, StageRequest)


def origin_header(request: ResolvedRequest) -> tuple[str, bytes]:
    """Give the header by which a request that is put at its home partition keeps its identity."""
    return ORIGIN, Origin(source=request.source).model_dump_json().encode()


def dead_letter(record: InputRecord, poison: Poison, *, at_ms: int) -> DeadLetter:
    """Give the dead letter of a record that could not be read, with all that it was.

    Of one larger than `DEAD_LETTER_BYTES_MAX` only the address is kept, and the reason says so.
    """
    reason = reason_of(poison)
    if record.size_bytes > DEAD_LETTER_BYTES_MAX:
        kept_not = (
            f"{reason.message} (its {record.size_bytes} bytes are too many to be kept here: "
            f"they stand at {record.address} until that topic's retention has passed)"
        )
        return DeadLetter(
            at_ms=at_ms,
            reason=reason.model_copy(update={"message": kept_not}),
            source=record.address,
            source_at_ms=record.timestamp,
        )
    return DeadLetter(
        at_ms=at_ms,
        reason=reason,
        source=record.address,
        source_at_ms=record.timestamp,
        key=_base64(record.key),
        value=_base64(record.value),
        headers=tuple(_header_pairs(record.headers)),
    )


def _header_pairs(
    headers: Iterable[tuple[str, bytes | None]],
) -> Iterable[tuple[str, str | None]]:
    return ((name, _base64(value)) for name, value in headers)


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
