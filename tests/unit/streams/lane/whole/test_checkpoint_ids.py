"""A checkpoint is found by the id that it has, by that of old records, and by its turn."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import TopicPartition

from millstream.schemas.topics import CHECKPOINTS
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.lane.output.checkpoint_log import AT_ONCE_RECORDS, CheckpointLog
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


async def test_whoever_looks_for_a_turn_lets_others_read_meanwhile(world: MemoryLanes) -> None:
    world.create_topics()
    where = TopicPartition(world.topic(CHECKPOINTS), 0)
    for _ in range(2 * AT_ONCE_RECORDS + 1):
        world.broker.append(where, b"eve", b"{}", [("ce_id", b"default/eve/checkpoint/t:c")])
    order = []
    async with started(world.io().reader()) as reader:
        log = CheckpointLog(reader, where)

        async def look() -> None:
            key = ("default", "ada", "s")
            assert await log.find_turn(key, 1, near=None, since_ms=0) is None
            order.append("looked")

        async def others() -> None:
            for _ in range(5):
                async with reader.lock:
                    order.append("read")

        await asyncio.gather(look(), others())
    assert order.index("looked") == 3
