"""What a lane sends outside its transactions: tokens, and records to where they belong."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition

from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.topics import REQUESTS, RESULTS, TOKENS
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from tests.harness.lanes import (
    read_topic,
    read_whole,
    running_lanes,
    upstream,
)

pytestmark = pytest.mark.rule(4)


@pytest.mark.rule(8)
async def test_no_transaction_writes_tokens_or_to_the_partition_of_another_lane(
    settings: Settings,
) -> None:
    home = home_partition("ada", settings.partitions)
    away = (home + 1) % settings.partitions
    async with running_lanes(settings), upstream(settings) as program:
        await program.publish({"user_id": "ada", "input": "tokens: 5"}, partition=away)
        await read_topic(settings, RESULTS, AgentResult, count=1)
    tokens = await read_whole(settings, TOKENS, AgentToken)
    written = {
        TopicPartition(settings.topic(TOKENS.name), home): len(tokens),
        TopicPartition(settings.topic(REQUESTS.name), home): 1,
    }
    reader = PartitionReader(settings)
    await reader.start()
    try:
        # A transaction would have left its marker behind the records.
        assert await reader.high_watermarks(written) == written
    finally:
        await reader.stop()
