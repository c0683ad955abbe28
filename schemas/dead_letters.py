"""Records that could not be read: why, the events that tell of them, and what became of them."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from millstream.schemas.base import Address, Count, EpochMs, Event, Identifier, Reason
from millstream.schemas.errors import MillstreamError, Poison

__all__ = [
    "DEAD_LETTER_CODES",
    "BatchLost",
    "BatchTooLarge",
    "BatchUnreadable",
    "CannotRedrive",
    "DeadLetter",
    "DeadLetterNotFound",
    "DeadLetterRedriven",
    "NewerSchema",
    "NotJson",
    "NullValue",
    "RecordTooLarge",
    "RequestIdReused",
    "Unserviceable",
    "WrongShape",
]


class NullValue(Poison):
    """The record has no value (a tombstone), which this topic has no use for."""

    code = "null_value"


class NotJson(Poison):
    """The record's value is not JSON in UTF-8."""

    code = "not_json"


class WrongShape(Poison):
    """The record's value is JSON, but not of the shape of the topic's events."""

    code = "wrong_shape"


class NewerSchema(Poison):
    """The record says it is of a schema version that this program does not know."""

    code = "newer_schema"


class RecordTooLarge(Poison):
    """The record is so large that what is written about it would not fit into one."""

    code = "record_too_large"


class BatchTooLarge(Poison):
    """The batch that the record came in unpacks to more than is read, so nothing of it is known."""

    code = "batch_too_large"


class BatchUnreadable(Poison):
    """The batch that the record came in is corrupt, or packed in a way that is not known here."""

    code = "batch_unreadable"


class RequestIdReused(Poison):
    """The same user asked for something else under this request id before."""

    code = "request_id_reused"


class Unserviceable(Poison):
    """A record by which lanes fail again and again, in a way that nobody foresaw."""

    code = "unserviceable"


DEAD_LETTER_CODES: Final = tuple(
    kind.code
    for kind in (
        NullValue,
        NotJson,
        WrongShape,
        NewerSchema,
        RecordTooLarge,
        BatchTooLarge,
        BatchUnreadable,
        RequestIdReused,
        Unserviceable,
    )
)
"""The codes of all reasons for which a record ends as a dead letter."""


class DeadLetterNotFound(MillstreamError):
    """There is no dead letter at this address, nor one of a record at this address."""

    code = "dead_letter_not_found"


class CannotRedrive(MillstreamError):
    """A dead letter cannot be put back as asked; nothing was written."""

    code = "cannot_redrive"


class BatchLost(CannotRedrive):
    """A dead letter stands for a batch of several records, which their writer has to send again."""

    code = "batch_lost"


class DeadLetter(Event):
    """A record that could not be read: bytes are in base64, `None` where there was none.

    Of the headers those are kept that say what a record is: `content-type`, `ce_*`, `traceparent`,
    `tracestate` and `millstream-*`, spelt so. Any other may be a secret and is dropped.
    `headers_dropped` has their names, each once, up to 20, without those that do not look like a
    name; `headers_dropped_count` is how many were dropped in all.

    A batch that could not be read has one letter, without its bytes: `first_offset` is the first of
    its offsets on the source's partition, `source` the last.
    """

    title: ClassVar[str] = "A record that could not be read"

    type: Literal["dead_letter"] = "dead_letter"
    user_id: Identifier = "unknown"
    reason: Reason
    source: Address
    source_at_ms: EpochMs
    key: str | None = None
    value: str | None = None
    headers: tuple[tuple[str, str | None], ...] = ()
    headers_dropped: tuple[str, ...] = ()
    headers_dropped_count: Count = 0
    first_offset: Count | None = None

    @property
    def event_id(self) -> str:
        """The address of the original."""
        return f"{self.source}:dead"


class DeadLetterRedriven(Event):
    """A dead letter was put back; written in the one transaction that put it back.

    `source` is where the record stood that could not be read, `redriven_as` where it stands now.
    `mended`: with another value than it had. `request_id` and the user are those of the request
    that it now is, if whoever put it back could read it.
    """

    title: ClassVar[str] = "A record that could not be read was put back"

    type: Literal["redriven"] = "redriven"
    user_id: Identifier = "unknown"
    source: Address
    redriven_as: Address
    mended: bool = False
    request_id: Identifier | None = None

    @property
    def event_id(self) -> str:
        """The address of the original: it is put back once."""
        return f"{self.source}:redriven"

    @property
    def record_key(self) -> str:
        """The address of the original."""
        return str(self.source)
