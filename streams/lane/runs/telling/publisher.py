"""Records that leave at once, by an ordinary idempotent producer, outside every transaction."""

from __future__ import annotations

import asyncio
from collections import deque

from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from millstream.schemas.base import Event
from millstream.schemas.errors import LaneLost, Terminal
from millstream.streams.lane.base.context import PlainProducer
from millstream.streams.wire.codec import encode
from millstream.streams.wire.trace import Trace

__all__ = ["PlainPublisher"]


class PlainPublisher:
    """Writes records of one attempt to a topic; `flush` returns once all are acknowledged.

    `what` they are called in errors. At most `unacknowledged_max` records are on their way: so a
    slow broker slows the agent.
    """

    what = "records"

    def __init__(
        self,
        producer: PlainProducer,
        *,
        topic: str,
        partition: int,
        source: str,
        traceparent: Trace,
        unacknowledged_max: int = 64,
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._source = source
        self._traceparent = traceparent
        self._max = unacknowledged_max
        self._sent: deque[asyncio.Future[object]] = deque()
        self.last_seq = -1

    async def send(self, event: Event) -> None:
        """Hand a record to the producer. Raises `LaneLost` if Kafka does not take it.

        Raises `Terminal` for one that no record can hold: that run fails, and no other.
        """
        encoded = encode(event, source=self._source, traceparent=self._traceparent)
        try:
            self._sent.append(
                await self._producer.send(
                    self._topic,
                    encoded.value,
                    encoded.key,
                    self._partition,
                    headers=encoded.headers,
                )
            )
            while self._sent and (self._sent[0].done() or len(self._sent) > self._max):
                await self._sent.popleft()
        except MessageSizeTooLargeError as error:
            size = len(encoded.value or b"")
            raise Terminal(f"a record of {size} bytes is too large for {self.what}") from error
        except KafkaError as error:
            raise LaneLost(f"{self.what} are not acknowledged: {error!r}") from error

    async def flush(self) -> None:
        """Return once every record is acknowledged. Raises `LaneLost` if one is not."""
        try:
            while self._sent:
                await self._sent.popleft()
        except KafkaError as error:
            raise LaneLost(f"{self.what} are not acknowledged: {error!r}") from error
