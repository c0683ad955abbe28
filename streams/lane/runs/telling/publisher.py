"""Records that leave at once, by an ordinary idempotent producer, outside every transaction."""

from __future__ import annotations

import asyncio
from collections import deque

from aiokafka.errors import KafkaError

from millstream.schemas.base import Event
from millstream.schemas.errors import LaneLost, Terminal
from millstream.schemas.topics import RECORD_BYTES_MAX
from millstream.streams.broker.failed_sends import REFUSED_AS_TOO_LARGE
from millstream.streams.lane.base.context import PlainProducer
from millstream.streams.wire.codec import Encoded, encode
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

        Raises `Terminal` for one that no record can hold, or that its topic refuses: that run
        fails, and no other.
        """
        await self.hand_over(self.encoded(event))

    def encoded(self, event: Event) -> Encoded:
        """Give an event's record. Raises `Terminal` for what brokers refuse: it is not sent."""
        encoded = encode(event, source=self._source, traceparent=self._traceparent)
        # Most are far below the limit: adding up their headers would cost more than the check.
        is_near = len(encoded.value or b"") > RECORD_BYTES_MAX // 2
        if is_near and encoded.size_bytes > RECORD_BYTES_MAX:
            raise Terminal(
                f"a record of {encoded.size_bytes} bytes is too large for {self.what}, which have "
                f"{RECORD_BYTES_MAX} at most"
            )
        return encoded

    async def hand_over(self, encoded: Encoded) -> None:
        """Hand a record to the producer. Raises as `send` does."""
        try:
            sent = await self._producer.send(
                self._topic,
                encoded.value,
                encoded.key,
                self._partition,
                headers=encoded.headers,
            )
        except KafkaError as error:
            raise self._meaning(error) from error
        self._sent.append(sent)
        while self._sent and (self._sent[0].done() or len(self._sent) > self._max):
            await self._take_acknowledged()

    async def flush(self) -> None:
        """Return once every record is acknowledged.

        Raises `LaneLost` if one is not, `Terminal` if its topic refused one.
        """
        refused: Terminal | None = None
        while self._sent:
            try:
                await self._take_acknowledged()
            except Terminal as error:
                refused = refused or error
        if refused is not None:
            raise refused

    async def _take_acknowledged(self) -> None:
        try:
            await self._sent.popleft()
        except KafkaError as error:
            raise self._meaning(error) from error

    def _meaning(self, error: KafkaError) -> Terminal | LaneLost:
        if isinstance(error, REFUSED_AS_TOO_LARGE):
            return Terminal(f"{self._topic} takes no record as large as one of these {self.what}")
        return LaneLost(f"{self.what} are not acknowledged: {error!r}")
