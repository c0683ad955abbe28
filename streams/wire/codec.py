"""Between events and Kafka records: JSON values, CloudEvents 1.0 in binary mode, W3C trace context.

Headers follow the CloudEvents Kafka protocol binding (`content-type`, `ce_*`); a record without
them is read all the same. `decode` raises `Poison`, and nothing else, for bytes it cannot read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar
from uuid import uuid4

import orjson
from pydantic import ValidationError

from millstream.schemas.base import EPOCH_MS_MAX, SCHEMA_VERSION, Event, words_of_problem
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.control.migrations import RunMigration
from millstream.schemas.dead_letters import NewerSchema, NotJson, NullValue, WrongShape
from millstream.schemas.events import AgentRequest
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.topics import TopicSpec
from millstream.streams.wire.sizes import content_bytes, record_bytes
from millstream.streams.wire.trace import TRACEPARENT, TRACESTATE, Trace, given_trace, new_trace
from millstream.streams.wire.unread import UnreadBatch

EventT = TypeVar("EventT", bound=Event)

Headers = tuple[tuple[str, bytes | None], ...]

TYPE_PREFIX = "io.millstream."
_EVENT_ID = "ce_id"
ORIGIN = "millstream-origin"
REDRIVEN = "millstream-redriven"

CONTENT_TYPE = "content-type"
_STRUCTURED = b"application/cloudevents"
_SPECVERSION = "specversion"
_SEND_BINARY = (
    "a structured CloudEvent is not read; publish in binary mode: what stands in its `data` as the "
    "record's value, its attributes as headers (`ce_id`, `ce_source`, …) or not at all, and "
    "`content-type: application/json` or none"
)
_PROBLEMS_SHOWN_MAX = 5
_FROM_OUTSIDE = (AgentRequest, ControlCommand, SessionCommand, RunMigration)
"""Events that programs other than Millstream's own write: they are read more strictly."""


class Record(Protocol):
    """What is read of a Kafka record, whichever client read it."""

    @property
    def key(self) -> bytes | None:
        """The record's key."""
        ...

    @property
    def value(self) -> bytes | None:
        """The record's value."""
        ...

    @property
    def headers(self) -> Iterable[tuple[str, bytes | None]]:
        """The record's headers."""
        ...


class Encoded(NamedTuple):
    """An event as a record's key, value and headers; no value: its key is to be forgotten."""

    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes]]

    @property
    def size_bytes(self) -> int:
        """An upper bound of the record's size on the wire."""
        return record_bytes(self.key, self.value, self.headers)

    @property
    def content_bytes(self) -> int:
        """The bytes of key, value and headers, as limits count them."""
        return content_bytes(self.key, self.value, self.headers)


def encode(event: Event, *, source: str, traceparent: Trace | None = None) -> Encoded:
    """Give an event's record; `source` is the CloudEvents source, `traceparent` the cause's trace.

    Raises `ValueError` for an empty source, which CloudEvents does not allow.
    """
    trace = traceparent or new_trace()
    headers = [
        *_same_headers(type(event), source),
        (_EVENT_ID, cloud_event_id(event)),
        ("ce_subject", event.user_id.encode()),
        ("ce_time", rfc3339(event.at_ms)),
        (TRACEPARENT, trace.parent),
    ]
    if trace.state is not None:
        headers.append((TRACESTATE, trace.state))
    value = event.__pydantic_serializer__.to_json(event, exclude_none=True)
    return Encoded(event.record_key.encode(), value, headers)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The key that a compacted topic is to forget."""

    topic: TopicSpec
    key: str


def tombstone(key: str) -> Encoded:
    """Give the record by which a compacted topic forgets what stands under `key`."""
    return Encoded(key.encode(), None, [])


def decode(record: Record, event_type: type[EventT]) -> EventT:
    """Read a record as `event_type`.

    Raises `NullValue`, `NotJson`, `NewerSchema` or `WrongShape`; for what stands for a batch that
    could not be read, `BatchTooLarge` or `BatchUnreadable`. The message says what is wrong and what
    is expected, for the people who wrote the record. Of an event that comes from outside,
    no object may have a key twice (RFC 8259 section 4): readers differ in which value they take.
    Nor may it be a structured CloudEvent, whose fields would stand one object further in.
    """
    if record.value is None:
        message = "the record has no value; publish a JSON object"
        raise NullValue(message)
    if isinstance(record.value, UnreadBatch):
        raise record.value.poison
    is_from_outside = event_type in _FROM_OUTSIDE
    if is_from_outside and is_structured(record):
        raise WrongShape(_SEND_BINARY)
    try:
        event = event_type.model_validate_json(record.value)
    except ValidationError as error:
        raise _diagnosed(record.value, event_type, error) from None
    require_known_version(event.schema_version)
    if is_from_outside:
        _require_unique_keys(record.value, event_type)
    return event


def require_known_version(version: int) -> None:
    """Raise `NewerSchema` if a record's schema version is newer than this program knows."""
    if version > SCHEMA_VERSION:
        raise _newer(version)


def is_structured(record: Record) -> bool:
    """Tell whether a record's headers say that its value is a structured CloudEvent, or a batch.

    CloudEvents 1.0, Kafka protocol binding, section 3: by the beginning of the content type.
    """
    given = header(record, CONTENT_TYPE)
    return given is not None and given.lstrip()[: len(_STRUCTURED)].lower() == _STRUCTURED


def header(record: Record, name: str) -> bytes | None:
    """Give the last value of a header, `None` if the record has none of that name."""
    found: bytes | None = None
    for key, value in record.headers or ():
        if key == name:
            found = value
    return found


def event_id_of(record: Record) -> bytes | None:
    """Give the event's id as its headers tell it, `None` for a record without them."""
    return header(record, _EVENT_ID)


def cloud_event_id(event: Event) -> bytes:
    """Give an event's CloudEvents id: `tenant/user/type/…`, so no two events of a source share it.

    The same whenever the event is made again, but for a request to which nobody gave an id.
    """
    return own_id(type(event), event, event.event_id or str(uuid4()))


def own_id(event_type: type[Event], whose: Event, event_id: str) -> bytes:
    """Give the CloudEvents id of a user's event of a type, which `event_id` tells from others."""
    user = whose.user_id
    if "/" in user or "%" in user:  # as RFC 3986 quotes them: slashes part an id's names
        user = user.replace("%", "%25").replace("/", "%2F")
    return f"{whose.tenant}/{user}/{_kind(event_type)}/{event_id}".encode()


def trace_of(record: Record) -> Trace:
    """Give the record's W3C trace context, or the start of a new trace if it has no valid one."""
    return given_trace(record.headers or ()) or new_trace()


@lru_cache(maxsize=1024)  # records of one millisecond are many, and formatting is half of encoding
def rfc3339(at_ms: int) -> bytes:
    """Give a time as CloudEvents wants it, in UTC with milliseconds; later than 9999 is 9999."""
    moment = datetime.fromtimestamp(min(at_ms, EPOCH_MS_MAX) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


@lru_cache(maxsize=1024)
def _same_headers(event_type: type[Event], source: str) -> tuple[tuple[str, bytes], ...]:
    """Give the headers that all events of a type have in common, if they are of one source."""
    if not source:
        message = "an event needs a source that is not empty"
        raise ValueError(message)
    return (
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_source", source.encode()),
        ("ce_type", (TYPE_PREFIX + _kind(event_type)).encode()),
    )


@lru_cache(maxsize=64)
def _kind(event_type: type[Event]) -> str:
    return str(event_type.model_fields["type"].default)


def _newer(version: int) -> NewerSchema:
    return NewerSchema(
        f"schema version {version} is newer than {SCHEMA_VERSION}, the newest known here; "
        "upgrade the workers, then put the record back"
    )


def _diagnosed(
    value: bytes, event_type: type[Event], error: ValidationError
) -> NotJson | NewerSchema | WrongShape:
    """Find out why a value did not validate: not JSON, newer than us, or of another shape."""
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError as broken:
        return NotJson(f"the value is not JSON in UTF-8: {broken}")
    if not isinstance(body, dict):
        return WrongShape(f"the value is a JSON {type(body).__name__}; publish a JSON object")
    if event_type in _FROM_OUTSIDE and _SPECVERSION in body:
        return WrongShape(_SEND_BINARY)
    version = body.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return _newer(version)
    name = event_type.__name__
    article = "an" if name[0] in "AEIOU" else "a"
    return WrongShape(f"not {article} {name}: {problems_of(error)}")


class _KeyTwiceError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _KeyTwiceError(key)
            seen.add(key)
    return found


# A number's value does not matter here, and one of thousands of digits is refused by `int`.
_KEYS = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=str, parse_float=str, parse_constant=str, strict=False
)


def _require_unique_keys(value: bytes, event_type: type[Event]) -> None:
    """Refuse a key that stands twice in one object of a value that was read before.

    And a structured CloudEvent that happens to hold our fields too.
    """
    try:
        body = _KEYS.decode(value.decode())
    except _KeyTwiceError as error:
        # A key that is no field's name may be a secret.
        key = repr(error.key) if error.key in event_type.model_fields else "a key"
        raise WrongShape(f"{key} is given twice in one JSON object; keep one of them") from None
    except (ValueError, RecursionError):
        return  # the two parsers differ in what is JSON: the first one's word stands
    if _SPECVERSION in body:
        raise WrongShape(_SEND_BINARY)


def problems_of(error: ValidationError) -> str:
    """Say what is wrong with a value, without a word of the value: it may be a secret."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'value'}: {words_of_problem(problem)}"
        for problem in error.errors(include_url=False, include_input=False)[:_PROBLEMS_SHOWN_MAX]
    ]
    return "; ".join(problems)
