"""A checkpoint is found by the id that it has, and by the one that old records have."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition

from millstream.schemas.topics import CHECKPOINTS
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.lane.output.checkpoint_log import CheckpointLog
from millstream.streams.lane.output.outcomes import session_head
from millstream.streams.wire.codec import encode
from tests import making
from tests.contracts.log_world import started
from tests.harness.memory_lanes import MemoryLanes


@pytest.mark.parametrize("as_once", [False, True], ids=["new-ids", "former-ids"])
async def test_a_checkpoint_is_found_by_either_id_and_only_its_own_users(
    world: MemoryLanes, *, as_once: bool
) -> None:
    world.create_topics()
    where = TopicPartition(world.topic(CHECKPOINTS), 0)
    own = making.checkpoint()
    other = own.model_copy(update={"user_id": "eve"})
    async with started(MemoryClients(world.broker).plain_producer()) as producer:
        for one in (other, own):
            key, value, headers = encode(one, source="/t")
            if as_once:
                headers = [*headers, ("ce_id", one.event_id.encode())]
            await producer.send_and_wait(where.topic, value, key, partition=0, headers=headers)
    async with started(world.io().reader()) as reader:
        log = CheckpointLog(reader, where)
        for one in (own, other):
            assert await log.find(session_head(one, None, offset_min=0)) == one
