"""The bus in memory passes the bus's contract."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition

from millstream.schemas.base import Address
from millstream.schemas.topics import BASE_TOPICS, TopicSpec
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.bus.api import BusHooks
from millstream.streams.bus.memory import MemoryBus
from millstream.streams.settings import Settings
from tests.contracts.bus_contract import BusContract


class MemoryWorld:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.broker = MemoryBroker(settings)
        self.broker.create_topics(BASE_TOPICS)

    def bus(self, hooks: BusHooks | None = None) -> MemoryBus:
        return MemoryBus(self.settings, self.broker, hooks)

    async def put(self, spec: TopicSpec, partition: int, value: bytes) -> Address:
        target = TopicPartition(self.settings.topic(spec.name), partition)
        return self.broker.append(target, None, value)


class TestMemoryBus(BusContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld(Settings(namespace="memory"))
