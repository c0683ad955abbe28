"""The reader of an answer passes its contract on real Kafka, and tells of what is gone."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from millstream.schemas.errors import AnswerGone
from millstream.schemas.topics import BASE_TOPICS
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.bus.token_reader import Position, TokenReader
from millstream.streams.settings import Settings
from tests.contracts.token_reader_contract import TokenReaderContract, result, token, words

pytestmark = pytest.mark.promise("P3")


class KafkaWorld:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def bus(self) -> KafkaBus:
        return KafkaBus(self.settings)

    async def delete(self, topic: str, partition: int, before: int) -> None:
        """Delete a partition's oldest records, as retention does."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.kafka)
        await admin.start()
        try:
            where = TopicPartition(self.settings.topic(topic), partition)
            await admin.delete_records({where: RecordsToDelete(before_offset=before)})
        finally:
            await admin.close()


class TestKafkaTokenReader(TokenReaderContract):
    @pytest.fixture
    async def world(self, settings: Settings) -> KafkaWorld:
        await ensure_topics(settings, BASE_TOPICS)
        return KafkaWorld(settings)

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
