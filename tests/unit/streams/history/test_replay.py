"""A replay of a log in memory passes the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition

from millstream.schemas.base import Address
from millstream.schemas.topics import BASE_TOPICS, TopicSpec
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.bus.memory import MemoryBus, MemoryLog
from millstream.streams.bus.record_log import Entry
from millstream.streams.history.replay import HistoryQuery, replay
from millstream.streams.settings import Settings
from tests.contracts.history_contract import HistoryContract

pytestmark = pytest.mark.promise("P8")


class MemoryWorld:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.broker = MemoryBroker(settings)
        self.broker.create_topics(BASE_TOPICS)

    def bus(self) -> MemoryBus:
        return MemoryBus(self.settings, self.broker)

    async def put(
        self,
        spec: TopicSpec,
        partition: int,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> Address:
        target = TopicPartition(self.settings.topic(spec.name), partition)
        return self.broker.append(target, key, value, headers)

    def replay(self, query: HistoryQuery) -> AsyncIterator[Entry]:
        return replay(MemoryLog(self.broker), self.settings, query)


class TestMemoryHistory(HistoryContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld(Settings(namespace="memory"))
