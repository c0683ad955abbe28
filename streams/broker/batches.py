"""Records to a producer as whole batches, one or more per partition: far less CPU than one by one.

aiokafka's `send` is a coroutine and a future for each record; `send_batch` is that for each batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from millstream.schemas.topics import RECORD_BYTES_MAX
from millstream.streams.broker.failed_sends import hear
from millstream.streams.wire.codec import Encoded

__all__ = ["BatchProducer", "Outgoing", "send_batches"]


class Outgoing(NamedTuple):
    """A record to be written: physical topic, partition, content, and the most it may have."""

    topic: str
    partition: int
    encoded: Encoded
    bytes_max: int = RECORD_BYTES_MAX


class BatchProducer(Protocol):
    """A producer that takes whole batches; aiokafka's is one."""

    def create_batch(self) -> Any:
        """Make an empty batch, aiokafka's `BatchBuilder`."""

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Hand a batch over; gives a future of its `RecordMetadata`, once acknowledged."""


@dataclass(slots=True)
class _Filled:
    """A batch of one partition, and which of the records are in it, in order."""

    batch: Any
    numbers: list[int] = field(default_factory=list)


async def send_batches(producer: BatchProducer, records: Iterable[Outgoing]) -> list[int]:
    """Send records, those of a partition in their order; give the offset of each.

    Returns once all are acknowledged. Raises what the first of the batches that failed raises,
    when the outcome of every one is known.
    """
    sends: list[asyncio.Future[Any]] = []
    places: list[list[int]] = []
    count = 0
    filling: dict[tuple[str, int], _Filled] = {}
    try:
        for record in records:
            place = (record.topic, record.partition)
            filled = filling.get(place)
            if filled is None or not _append(filled, record.encoded, count):
                if filled is not None:
                    sends.append(await _send(producer, place, filled))
                    places.append(filled.numbers)
                # A batch takes its first record whatever its size.
                filled = filling[place] = _Filled(producer.create_batch())
                _append(filled, record.encoded, count)
            count += 1
        for place, filled in filling.items():
            sends.append(await _send(producer, place, filled))
            places.append(filled.numbers)
    except BaseException:
        for sent in sends:  # who waits for them is gone
            sent.add_done_callback(hear)
        raise
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    offsets = [0] * count
    for outcome, numbers in zip(outcomes, places, strict=True):
        if isinstance(outcome, BaseException):
            raise outcome
        for position, number in enumerate(numbers):
            offsets[number] = outcome.offset + position
    return offsets


def _append(filled: _Filled, encoded: Encoded, number: int) -> bool:
    """Put a record into a batch; tell whether there was room."""
    appended = filled.batch.append(
        timestamp=None, key=encoded.key, value=encoded.value, headers=encoded.headers
    )
    if appended is None:
        return False
    filled.numbers.append(number)
    return True


async def _send(
    producer: BatchProducer, place: tuple[str, int], filled: _Filled
) -> asyncio.Future[Any]:
    filled.batch.close()
    topic, partition = place
    sent: asyncio.Future[Any] = await producer.send_batch(filled.batch, topic, partition=partition)
    return sent
