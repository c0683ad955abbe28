"""The way of tokens: an ordinary idempotent producer, at once, outside every transaction."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque

from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from millstream.schemas.errors import LaneLost, Terminal
from millstream.schemas.events import AgentToken
from millstream.streams.lane.base.context import PlainProducer
from millstream.streams.wire.codec import encode


class TokenPublisher:
    """Writes one attempt's tokens; `flush` returns once all of them are acknowledged.

    At most `unacknowledged_max` records are on their way: a slow broker slows the model.
    """

    def __init__(
        self,
        producer: PlainProducer,
        *,
        topic: str,
        partition: int,
        source: str,
        traceparent: bytes,
        unacknowledged_max: int = 64,
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._source = source
        self._traceparent = traceparent
        self._max = unacknowledged_max
        self._sent: deque[asyncio.Future[object]] = deque()
        self._hash = hashlib.sha256()
        self.last_seq = -1

    async def write(self, token: AgentToken) -> None:
        """Hand a token record to the producer. Raises `LaneLost` if Kafka does not take it.

        Raises `Terminal` for a token that no record can hold: that run fails, and no other.
        """
        self.last_seq = token.seq
        self._hash.update(token.text.encode())
        encoded = encode(token, source=self._source, traceparent=self._traceparent)
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
            raise Terminal(f"a token of {len(token.text)} characters is too large") from error
        except KafkaError as error:
            raise LaneLost(f"tokens are not acknowledged: {error!r}") from error

    @property
    def text_sha256(self) -> str | None:
        """The hash of the text written so far, `None` while there is none."""
        return None if self.last_seq < 0 else self._hash.hexdigest()

    async def flush(self) -> None:
        """Return once every token is acknowledged. Raises `LaneLost` if one is not."""
        try:
            while self._sent:
                await self._sent.popleft()
        except KafkaError as error:
            raise LaneLost(f"tokens are not acknowledged: {error!r}") from error
