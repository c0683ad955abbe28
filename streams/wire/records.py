"""From a record as it arrived to a request that can be worked on."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import ValidationError

from millstream.schemas.base import DEFAULT_TENANT, Address, Event, Frozen, Identifier, TenantName
from millstream.schemas.dead_letters import DeadLetter, RecordTooLarge
from millstream.schemas.errors import Poison
from millstream.schemas.events import AgentRequest, Origin, Redriven, ResolvedRequest
from millstream.schemas.lane_events import StageRequest
from millstream.schemas.reasons import reason_of
from millstream.schemas.topics import (
    COMMAND_TOPICS,
    INPUT_BYTES_MAX,
    RECORD_BYTES_MAX,
    REQUESTS,
    TopicSpec,
)
from millstream.streams.wire.codec import ORIGIN, REDRIVEN, decode
from millstream.streams.wire.headers import dropped_headers, is_kept
from millstream.streams.wire.sizes import (
    HEADERS_MAX,
    HEADERS_MOVED_MAX,
    content_bytes,
    header_bytes,
)
from millstream.streams.wire.unread import UnreadBatch

OriginT = TypeVar("OriginT", bound=Origin)
EventT = TypeVar("EventT", bound=Event)

MOVED_BYTES_MAX = 4_096
"""What a record may grow by where it is moved or put back: its key, its places, its trace."""

DEAD_LETTER_BYTES_MAX = 1_400_000
"""Most bytes of a record that its dead letter keeps: in base64 they are a third more."""

USER_KEY_BYTES_MAX = 2_048
"""More than the key of any user takes: tenant and name have 64 and 256 characters."""

_JSON_PER_HEADER_BYTES = 16

_PLACE_BYTES_MAX = 2_048
"""More than any header that says where a record stood."""


class LogRecord(Protocol):
    """A record with its place; aiokafka's is one. `timestamp` is the broker's, in milliseconds."""

    @property
    def topic(self) -> str: ...  # noqa: D102
    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...  # noqa: D102


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

    @classmethod
    def of(cls, record: LogRecord) -> InputRecord:
        """Give a record as it was read from a log."""
        return cls(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            key=record.key,
            value=record.value,
            headers=tuple(record.headers),
        )

    @property
    def address(self) -> Address:
        """Where the record stands."""
        return Address(topic=self.topic, partition=self.partition, offset=self.offset)

    @property
    def size_bytes(self) -> int:
        """The bytes of key, value and all headers."""
        return content_bytes(self.key, self.value, self.headers)

    @property
    def kept_bytes(self) -> int:
        """The bytes of key, value and the headers that are kept, these as they are in JSON."""
        headers = sum(
            len(name) + len(value or b"") + _JSON_PER_HEADER_BYTES
            for name, value in self.headers
            if is_kept(name)
        )
        return len(self.key or b"") + len(self.value or b"") + headers


def require_size(record: InputRecord, bytes_max: int = INPUT_BYTES_MAX) -> None:
    """Raise `RecordTooLarge` for one of more than `bytes_max` or `HEADERS_MAX`, before it is read.

    One that was moved, or put back, may have grown by that.
    """
    size, headers = record.size_bytes, len(record.headers)
    if size <= bytes_max and headers <= HEADERS_MAX:
        return
    was_moved = any(name in {ORIGIN, REDRIVEN} for name, _ in record.headers)
    if headers > HEADERS_MAX + was_moved * HEADERS_MOVED_MAX:
        raise RecordTooLarge(
            f"the record has {headers} headers, at most {HEADERS_MAX} are read: give fewer"
        )
    if size > bytes_max + was_moved * MOVED_BYTES_MAX:
        raise RecordTooLarge(
            f"the record has {size} bytes ({_parts(record)}), at most {bytes_max} are read: "
            f"{_remedy(record)}"
        )


def _parts(record: InputRecord) -> str:
    return (
        f"key {len(record.key or b'')}, value {len(record.value or b'')}, "
        f"{len(record.headers)} headers {header_bytes(record.headers)}"
    )


def _remedy(record: InputRecord) -> str:
    """Say what to do by what is largest."""
    key, value = len(record.key or b""), len(record.value or b"")
    if key > USER_KEY_BYTES_MAX and key >= value:
        return "key it by its user, or not at all"
    if header_bytes(record.headers) > max(key, value):
        return "give fewer or shorter headers"
    return "shorten it, or give what is large by its URL"


def read_request(record: InputRecord) -> ResolvedRequest:
    """Read a record of the requests topic; one that was moved keeps the id of where it first stood.

    Its time is the broker's for this very record. Raises `Poison`.
    """
    require_size(record)
    request = decode(record, AgentRequest)
    return request.resolved(original_address(record), record.timestamp)


def read_command(record: InputRecord, kind: type[EventT]) -> EventT:
    """Read a record of a topic of commands. Raises `Poison`."""
    require_size(record)
    return decode(record, kind)


def read_input(record: InputRecord, spec: TopicSpec) -> Event:
    """Read a record of a topic that lanes take in, as they do: what they bury raises `Poison`."""
    if spec.name == REQUESTS.name:
        return read_request(record)
    if spec.event is StageRequest:
        return read_stage_request(record)
    return read_command(record, spec.event)


def is_input(spec: TopicSpec) -> bool:
    """Tell whether lanes take in a topic's records, and bury those that are too large."""
    return spec.event is StageRequest or spec.name == REQUESTS.name or spec in COMMAND_TOPICS


def user_of(value: bytes | None) -> tuple[str, str] | None:
    """Give tenant and user id of a request, `None` where `read_request` will find none either.

    Far cheaper than reading all of it.
    """
    return _user_of(value, _Asker)


def user_of_staged(value: bytes | None) -> tuple[str, str] | None:
    """Give tenant and user id of a request between two stages, as `user_of` does."""
    return _user_of(value, _StagedAsker)


class _Asker(Frozen):
    tenant: TenantName = DEFAULT_TENANT
    user_id: Identifier

    @property
    def user(self) -> tuple[str, str]:
        return (self.tenant, self.user_id)


class _StagedAsker(Frozen):
    request: _Asker

    @property
    def user(self) -> tuple[str, str]:
        return self.request.user


def _user_of(value: bytes | None, shape: type[_Asker | _StagedAsker]) -> tuple[str, str] | None:
    if value is None or len(value) > RECORD_BYTES_MAX:
        return None
    try:
        return shape.model_validate_json(value).user
    except ValidationError:
        return None


def original_address(record: InputRecord) -> Address:
    """Give where a record first stood that was put right or redriven, else where it stands.

    A header that names no place is passed over: `unreadable_places` tells which those are.
    """
    # Anybody may write these headers. They name the request and no more: were its time taken from
    # them too, a forged one could move a whole partition's windows. One that cannot be true is
    # none: what was put right comes from another partition, what was redriven from an earlier
    # place on this one, or from another if it was put right afterwards.
    origin = _place(record, ORIGIN, Origin)
    if origin is not None:
        first = origin.source
        if first.topic == record.topic and first.partition != record.partition:
            return first
    redriven = _place(record, REDRIVEN, Redriven)
    if redriven is not None:
        first = redriven.source
        earlier = first.partition != record.partition or first.offset < record.offset
        if first.topic == record.topic and earlier:
            return first
    return record.address


def arrived_ms(record: InputRecord) -> int:
    """Give the broker's time at which a record first arrived, though it was put right since.

    Anybody may write that header: ask it only where who forges it harms no one else.
    """
    origin = _place(record, ORIGIN, Origin)
    if origin is None or origin.at_ms is None or original_address(record) != origin.source:
        return record.timestamp
    return min(origin.at_ms, record.timestamp)


def unreadable_places(record: InputRecord) -> tuple[str, ...]:
    """Name the headers that are to say where a record first stood, and say nothing that is a place.

    A header has no part in what is asked, so the request is served without it, as W3C trace
    context has it for a malformed `traceparent`; whoever wrote the header is to be told.
    """
    return tuple(
        name
        for name, of in ((ORIGIN, Origin), (REDRIVEN, Redriven))
        if any(key == name for key, _ in record.headers) and _place(record, name, of) is None
    )


def _place(record: InputRecord, name: str, of: type[OriginT]) -> OriginT | None:
    """Give the last place that headers of this name tell, `None` if none tells one."""
    for key, value in reversed(record.headers):
        if key == name and value is not None and len(value) <= _PLACE_BYTES_MAX:
            with suppress(ValidationError):
                return of.model_validate_json(value)
    return None


def read_stage_request(record: InputRecord) -> StageRequest:
    """Read a record of a topic between two stages. Raises `Poison`."""
    # Larger than the request in it: what was decided before stands beside that.
    require_size(record, RECORD_BYTES_MAX)
    return decode(record, StageRequest)


def origin_header(source: Address, at_ms: int | None = None) -> tuple[str, bytes]:
    """Give the header by which a record that is put at its home partition keeps its identity."""
    origin = Origin(source=source, at_ms=at_ms)
    return ORIGIN, origin.model_dump_json(exclude_none=True).encode()


def dead_letter(record: InputRecord, poison: Poison, *, at_ms: int) -> DeadLetter:
    """Give the dead letter of a record that could not be read: its bytes, and the headers kept.

    Of one larger than `DEAD_LETTER_BYTES_MAX` it is a `bare_letter`; of a batch that cannot be
    read it has the addresses.
    """
    if isinstance(record.value, UnreadBatch):
        letter = _letter(record, poison, at_ms)
        return letter.model_copy(update={"first_offset": record.value.first})
    if record.kept_bytes > DEAD_LETTER_BYTES_MAX:
        return bare_letter(record, poison, at_ms=at_ms)
    return _letter(record, poison, at_ms).model_copy(
        update={
            "key": _base64(record.key),
            "value": _base64(record.value),
            "headers": tuple(
                (name, _base64(value)) for name, value in record.headers if is_kept(name)
            ),
        }
    )


def bare_letter(record: InputRecord, poison: Poison, *, at_ms: int) -> DeadLetter:
    """Give a dead letter without the record's bytes: it says where they stand.

    It has the key if that is as short as a user's is: the user's dead letters are found by it.
    """
    letter = _letter(record, poison, at_ms)
    kept_not = (
        f"{letter.reason.message} (its {record.size_bytes} bytes are too many to be kept here: "
        f"they stand at {record.address} until that topic's retention has passed)"
    )
    reason = letter.reason.model_copy(update={"message": kept_not})
    key = record.key if len(record.key or b"") <= USER_KEY_BYTES_MAX else None
    return letter.model_copy(update={"reason": reason, "key": _base64(key)})


def _letter(record: InputRecord, poison: Poison, at_ms: int) -> DeadLetter:
    dropped = dropped_headers(record.headers)
    return DeadLetter(
        at_ms=at_ms,
        reason=reason_of(poison),
        source=record.address,
        source_at_ms=record.timestamp,
        headers_dropped=dropped.names,
        headers_dropped_count=dropped.count,
    )


def with_kept_headers(letter: DeadLetter) -> DeadLetter:
    """Give a dead letter as it is written now; earlier versions wrote all headers into it."""
    dropped = dropped_headers(letter.headers)
    if not dropped.count:
        return letter
    return letter.model_copy(
        update={
            "headers": tuple(pair for pair in letter.headers if is_kept(pair[0])),
            "headers_dropped": (*letter.headers_dropped, *dropped.names),
            "headers_dropped_count": letter.headers_dropped_count + dropped.count,
        }
    )


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
