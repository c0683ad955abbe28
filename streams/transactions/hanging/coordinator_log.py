"""Reading what a transaction coordinator wrote down: its topic `__transaction_state`.

The records are Kafka's own (`TransactionLogValue.json`, versions 0 and 1, as of Kafka 4.3), and may
change with it: what cannot be read is `None`, and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from aiokafka import TopicPartition
from aiokafka.protocol.types import (
    Array,
    CompactArray,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

__all__ = [
    "TOPIC",
    "TransactionOutcome",
    "UnknownFormat",
    "coordinator_partition",
    "is_of",
    "read_verdict",
]

TOPIC = "__transaction_state"

_HEAD = (("producer_id", Int64), ("epoch", Int16), ("timeout_ms", Int32), ("status", Int8))
_VALUES = {
    0: Schema(*_HEAD, ("topics", Array(("topic", String("utf-8")), ("partitions", Array(Int32))))),
    1: Schema(
        *_HEAD,
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                ("partitions", CompactArray(Int32)),
                ("tags", TaggedFields),
            ),
        ),
    ),
}
_PREPARE_COMMIT = 2
_PREPARE_ABORT = 3
_VERSION_BYTES = 2


@dataclass(frozen=True, slots=True)
class TransactionOutcome:
    """How a coordinator decided to end a transaction, and the partitions it was to mark."""

    producer_id: int
    is_commit: bool
    partitions: frozenset[TopicPartition]


class UnknownFormat(ValueError):
    """A record is of a format that was not known when this was written."""


def is_of(key: bytes | None, transactional_id: str) -> bool:
    """Tell by its key whether a record is of a transactional id."""
    return key is not None and key[_VERSION_BYTES:] == String("utf-8").encode(transactional_id)


def read_verdict(value: bytes | None) -> TransactionOutcome | None:
    """Read a record of the log; `None` if it decides on no transaction. Raises `UnknownFormat`."""
    if value is None:
        return None
    version = int.from_bytes(value[:_VERSION_BYTES], "big")
    schema = _VALUES.get(version)
    try:
        if schema is None:
            raise UnknownFormat(f"a record of version {version}")
        producer_id, _, _, status, topics = schema.decode(BytesIO(value[_VERSION_BYTES:]))
    except ValueError as error:
        raise UnknownFormat(str(error)) from error
    if status not in {_PREPARE_COMMIT, _PREPARE_ABORT}:
        return None
    return TransactionOutcome(
        producer_id=producer_id,
        is_commit=status == _PREPARE_COMMIT,
        partitions=frozenset(
            TopicPartition(topic, partition)
            for topic, partitions, *_ in topics or ()
            for partition in partitions
        ),
    )


def coordinator_partition(transactional_id: str, partitions: int) -> int:
    """Give the partition that the coordinator keeps an id at: Java's `hashCode`, made positive."""
    code = 0
    encoded = transactional_id.encode("utf-16-be")
    for at in range(0, len(encoded), 2):
        code = (31 * code + int.from_bytes(encoded[at : at + 2], "big")) & 0xFFFFFFFF
    signed = code - (1 << 32) if code >= 1 << 31 else code
    # `Utils.abs` of Kafka: the smallest integer, which has no positive one, is 0.
    return (0 if signed == -(1 << 31) else abs(signed)) % partitions
