"""The reader of an answer passes its contract on real Kafka, and tells of what is gone."""

from __future__ import annotations

import pytest

from millstream.schemas.errors import AnswerGone
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.bus.token_reader import Position, TokenReader
from millstream.streams.settings import Settings
from tests.contracts.token_reader_contract import TokenReaderContract, result, token, words
from tests.contracts.worlds import KafkaWorld

pytestmark = pytest.mark.promise("P3")


class TestKafkaTokenReader(TokenReaderContract):
    @pytest.fixture
    async def world(self, settings: Settings) -> KafkaWorld:
        return await KafkaWorld.created(settings)

    async def test_tokens_that_retention_deleted_come_with_the_result(
        self, world: KafkaWorld, bus: KafkaBus
    ) -> None:
        (address, *_) = await bus.publish_batch([token("a", 0), token("b", 1), token("c", 2)])
        await bus.publish(result("abc", last_seq=2))
        async with TokenReader(bus, "ada", "r") as reader:
            first = await anext(reader)
        await world.delete("tokens", address.partition, 2)
        for resume, told in ((None, ["abc", "."]), (first.position, ["bc", "."])):
            async with TokenReader(bus, "ada", "r", resume=resume) as reader:
                assert words([piece async for piece in reader]) == told

    async def test_a_position_before_results_that_are_gone_says_so(
        self, world: KafkaWorld, bus: KafkaBus
    ) -> None:
        where = await bus.publish(result("a", last_seq=0))
        await world.delete("results", where.partition, 1)
        with pytest.raises(AnswerGone, match="retention"):
            await TokenReader(bus, "ada", "r", resume=Position(where.partition)).__aenter__()
