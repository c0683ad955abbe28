"""A log that is made anew, or cut, under its readers is read on, and nothing is told twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS
from millstream.streams.bus.api import EVERYTHING
from millstream.streams.bus.delivery_queue import DeliveryQueue
from millstream.streams.bus.fanout import Fanout
from millstream.streams.wire.codec import encode
from tests import making

PLACE = TopicPartition("ns.results", 0)


@dataclass(frozen=True)
class Read:
    """A record as a client gives it."""

    offset: int
    timestamp: int
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    key: bytes | None = b"ada"
    topic: str = PLACE.topic
    partition: int = PLACE.partition


def record(offset: int, at_ms: int) -> Read:
    encoded = encode(making.result(f"r{at_ms}", request_id=f"r{at_ms}"), source="/x")
    return Read(offset, at_ms, encoded.value, tuple(encoded.headers))


class Batches:
    """A reader that gives what it is told to, batch after batch, and then nothing."""

    def __init__(self, *batches: Sequence[Read]) -> None:
        self._batches = list(batches)
        self.is_empty = asyncio.Event()

    async def read(self, *, records_max: int, wait_s: float) -> Mapping[TopicPartition, Any]:
        del records_max, wait_s
        if self._batches:
            return {PLACE: self._batches.pop(0)}
        self.is_empty.set()
        return await asyncio.Future()

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        pass

    def seek(self, partition: TopicPartition, offset: int) -> None:
        pass

    pause = resume = lambda *_: None


async def told(*batches: Sequence[Read]) -> list[str]:
    reader = Batches(*batches)
    fanout = Fanout(reader, lambda _: None)  # type: ignore[arg-type]
    box = DeliveryQueue(EVERYTHING, {PLACE: 0}, fanout.steer)
    fanout.add(box, {PLACE: RESULTS})
    running = asyncio.create_task(fanout.run())
    await reader.is_empty.wait()
    running.cancel()
    taken = [await box.delivery() for _ in range(len(box))]
    events = [one.event for one in taken if one is not None]
    return [event.request_id for event in events if isinstance(event, AgentResult)]


async def test_a_topic_that_was_made_anew_is_told_from_its_beginning() -> None:
    before = [record(offset, 100 + offset) for offset in range(5)]
    anew = [record(0, 200), record(1, 201)]
    assert await told(before, anew, [record(2, 202)]) == [
        *(f"r{number}" for number in (100, 101, 102, 103, 104)),
        *("r200", "r201", "r202"),
    ]


async def test_of_a_log_that_was_cut_nothing_is_told_twice() -> None:
    before = [record(offset, 100 + offset) for offset in range(5)]
    cut = before[:3]
    assert await told(before, cut, [record(3, 300)], [record(4, 301)]) == [
        *(f"r{number}" for number in (100, 101, 102, 103, 104)),
        *("r300", "r301"),
    ]
