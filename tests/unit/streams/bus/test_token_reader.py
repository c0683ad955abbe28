"""The reader of an answer passes its contract on the bus in memory."""

from __future__ import annotations

import pytest

from millstream.streams.bus.api import EventBus
from millstream.streams.bus.token_reader import TokenReader
from tests.contracts.token_reader_contract import TokenReaderContract, result, step, token, words
from tests.contracts.worlds import MemoryWorld

pytestmark = pytest.mark.promise("P3")


class TestMemoryTokenReader(TokenReaderContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()

    async def test_steps_that_stand_on_the_topic_come_in_their_place(self, bus: EventBus) -> None:
        await bus.publish_batch([token("one ", 0), token("two", 1), step(0), step(1, 2)])
        await bus.publish_batch([result("one two", last_seq=1, steps=3), step(2, 7)])
        async with TokenReader(bus, "ada", "r", steps=True) as reader:
            told = words([piece async for piece in reader])
        assert told == ["#0", "on", "#1", "e ", "two", "#2", "."]
