"""The reader of an answer passes its contract on the bus in memory."""

from __future__ import annotations

import pytest

from millstream.schemas.topics import BASE_TOPICS
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.bus.memory import MemoryBus
from millstream.streams.settings import Settings
from tests.contracts.token_reader_contract import TokenReaderContract

pytestmark = pytest.mark.promise("P3")


class MemoryWorld:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._broker = MemoryBroker(settings)
        self._broker.create_topics(BASE_TOPICS)

    def bus(self) -> MemoryBus:
        return MemoryBus(self.settings, self._broker)


class TestMemoryTokenReader(TokenReaderContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld(Settings(namespace="memory"))
