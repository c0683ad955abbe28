"""Who asks a deployment, and sees when it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
from aiokafka import AIOKafkaProducer, TopicPartition

from millstream.schemas.topics import REQUESTS, RESULTS
from millstream.streams.broker.clients import committed_consumer
from millstream.streams.settings import Settings

__all__ = ["Asker", "Question", "asking"]

_OUTSTANDING_MAX = 1_000
_STALL_S = 120.0


@dataclass(frozen=True, slots=True)
class Question:
    """A request in its shortest form."""

    request_id: str
    user_id: str
    session_id: str

    @property
    def value(self) -> bytes:
        """The record's value, as an upstream would write it."""
        return orjson.dumps(
            {
                "request_id": self.request_id,
                "user_id": self.user_id,
                "session_id": self.session_id,
                "input": "hello",
            }
        )


class Asker:
    """Publishes questions and notes when each was answered, by `time.perf_counter`."""

    def __init__(self, own: Settings, producer: AIOKafkaProducer) -> None:
        self._topic = own.topic(REQUESTS.name)
        self._producer = producer
        self._waiting: set[str] = set()
        self._changed = asyncio.Event()
        self.answered_at: list[float] = []

    async def ask(self, questions: Iterable[Question]) -> None:
        """Publish, with up to a thousand on their way. Raises `TimeoutError` if no answers come."""
        for one in questions:
            await self.wait(_OUTSTANDING_MAX - 1)
            self._waiting.add(one.request_id)
            await self._producer.send(self._topic, one.value, one.user_id.encode())
        await self._producer.flush()

    async def wait(self, waiting_max: int = 0) -> None:
        """Wait until so few wait for an answer. Raises `TimeoutError` if none comes for 120 s."""
        while len(self._waiting) > waiting_max:
            self._changed.clear()
            async with asyncio.timeout(_STALL_S):
                await self._changed.wait()

    def arrive(self, request_ids: Iterable[str]) -> None:
        """Note results; those of requests that somebody else made are passed over."""
        at = time.perf_counter()
        for request_id in request_ids:
            if request_id in self._waiting:
                self._waiting.remove(request_id)
                self.answered_at.append(at)
        self._changed.set()


@asynccontextmanager
async def asking(own: Settings) -> AsyncIterator[Asker]:
    """Give somebody who asks, and hears of what is answered from now on."""
    producer = AIOKafkaProducer(bootstrap_servers=own.kafka, enable_idempotence=True, linger_ms=5)
    consumer = committed_consumer(own)
    await producer.start()
    await consumer.start()
    topic = own.topic(RESULTS.name)
    consumer.assign([TopicPartition(topic, number) for number in range(own.partitions)])
    await consumer.seek_to_end()
    for place in consumer.assignment():
        await consumer.position(place)  # the end is looked up only when it is asked for
    asker = Asker(own, producer)

    async def listen() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                asker.arrive(str(orjson.loads(one.value)["request_id"]) for one in records)

    listener = asyncio.create_task(listen())
    try:
        yield asker
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        await consumer.stop()
        await producer.stop()
