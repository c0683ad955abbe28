"""What is told of a session view that lacks something, and when it lacks it no more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from aiokafka import TopicPartition
from structlog.testing import capture_logs

from millstream.schemas.topics import SESSIONS
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.sessions.in_redis.marks import Stand
from millstream.streams.settings import Settings
from millstream.streams.views.session_feed import SessionFeed
from millstream.streams.views.session_healing import Fed, SessionHealing
from tests.support import eventually


class OldMarks:
    """Marks of a view that has the first record of each partition, or none."""

    def __init__(self) -> None:
        self.stands: dict[str, Stand] = {}

    async def read(self) -> Mapping[str, Stand]:
        return self.stands

    async def claim(self, stands: Mapping[str, Stand]) -> bool:
        del stands
        return False


async def test_only_an_outage_that_was_told_is_told_to_be_over() -> None:
    settings = Settings(namespace="memory")
    broker = MemoryBroker(settings)
    broker.create_topics([SESSIONS])
    for _ in range(3):
        broker.append(TopicPartition(settings.topic(SESSIONS.name), 0), b"k", b"no event")

    async def put(event: object, offset: int) -> None:
        del event, offset

    def fed() -> Iterator[Fed]:
        yield Fed(SESSIONS.name, 0, feed, 3)

    marks = OldMarks()
    healing = SessionHealing(
        settings, fed, marks, reader=lambda: PartitionReader(settings, MemoryClients(broker))
    )
    feed = SessionFeed(
        settings, settings.topic(SESSIONS.name), SESSIONS.event, put, on_behind=healing.wake
    )
    marks.stands = {f"{SESSIONS.name}/0": Stand(1)}
    running = asyncio.create_task(healing.heal([feed]))
    try:
        with capture_logs() as lines:
            await healing.compare(marks)  # a partition that was another worker's a moment ago
            await eventually(lambda: len(lines) == 1)
        assert [line["log_level"] for line in lines] == ["info"]
        marks.stands = {}
        with capture_logs() as lines:
            await healing.compare(marks)  # and now Redis was emptied
            await eventually(lambda: len(lines) == 2)
        assert [line["log_level"] for line in lines] == ["warning", "warning"]
        assert "lost what it had" in lines[0]["event"]
        assert "has caught up" in lines[1]["event"]
    finally:
        running.cancel()
        await asyncio.wait([running])
