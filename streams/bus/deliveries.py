"""From a record as it was read to a delivery, or to the reason why it is none."""

from __future__ import annotations

from millstream.schemas.base import Address
from millstream.schemas.errors import Poison
from millstream.schemas.topics import REQUESTS, TopicSpec
from millstream.streams.bus.api import Delivery, Unreadable
from millstream.streams.wire.codec import decode
from millstream.streams.wire.records import InputRecord, LogRecord, read_request

__all__ = ["Entry", "read_entry"]

Entry = Delivery | Unreadable


def read_entry(record: LogRecord, spec: TopicSpec) -> Entry:
    """Read a record of `spec`'s topic. Requests get the ids that their upstream left out."""
    address = Address(topic=record.topic, partition=record.partition, offset=record.offset)
    try:
        event = (
            read_request(InputRecord.of(record))
            if spec.name == REQUESTS.name
            else decode(record, spec.event)
        )
    except Poison as error:
        return Unreadable(address, record.timestamp, record.key, error)
    return Delivery(event, address, record.timestamp)
