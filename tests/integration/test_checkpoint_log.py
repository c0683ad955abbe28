"""Sessions that wait for their checkpoints have them read back together, on real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import TopicPartition

from millstream.schemas.events import CheckpointSaved, SessionUpdated
from millstream.schemas.topics import CHECKPOINTS
from millstream.streams.broker.clients import idempotent_producer
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.lane.output.checkpoint_log import NEAR_RECORDS, CheckpointLog
from millstream.streams.lane.output.outcomes import session_head
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import encode
from tests import making


class CountingReader(PartitionReader):
    """A reader that counts the stretches it began, and the records that were taken of them."""

    stretches = 0
    records = 0
    leaves: asyncio.Task[Any] | None = None
    """Who gives up waiting once a record was taken."""

    async def read(
        self, ends: Mapping[TopicPartition, int], **where: Any
    ) -> AsyncGenerator[Any, None]:
        self.stretches += 1
        async for record in super().read(ends, **where):
            self.records += 1
            yield record
            if self.leaves is not None:
                self.leaves.cancel()
                await asyncio.wait({self.leaves})


def saved(session: str, turn: int = 1) -> CheckpointSaved:
    return making.checkpoint(
        request_id=f"{session}-{turn}",
        session_id=session,
        checkpoint_id=f"c{turn}",
        turn=turn,
        data=f"state of {session}",
    )


def at(place: int, checkpoint: CheckpointSaved) -> SessionUpdated:
    return session_head(checkpoint, None, offset_min=place)


@asynccontextmanager
async def looking_through(
    settings: Settings, checkpoints: Sequence[CheckpointSaved]
) -> AsyncIterator[tuple[CheckpointLog, CountingReader]]:
    """Write checkpoints, each at its place, and look through them."""
    await ensure_topics(settings, [CHECKPOINTS])
    where = TopicPartition(settings.topic(CHECKPOINTS.name), 0)
    producer = idempotent_producer(settings)
    await producer.start()
    try:
        sent = []
        for one in checkpoints:
            key, value, headers = encode(one, source="/t")
            sent.append(await producer.send(where.topic, value, key, partition=0, headers=headers))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    reader = CountingReader(settings)
    await reader.start()
    try:
        yield CheckpointLog(reader, where), reader
    finally:
        await reader.stop()


async def found_together(
    log: CheckpointLog, reader: PartitionReader, heads: Sequence[SessionUpdated]
) -> list[CheckpointSaved | None]:
    """Ask for all of them before the first is looked for."""
    async with reader.lock:
        asked = [asyncio.create_task(log.find(one)) for one in heads]
        await asyncio.wait(asked, timeout=0)
    return await asyncio.gather(*asked)


async def test_one_pass_over_the_log_serves_all_sessions_that_wait(settings: Settings) -> None:
    sessions = [saved(f"s{number}") for number in range(50)]
    async with looking_through(settings, sessions) as (log, reader):
        # Those that stand last ask first.
        heads = [at(place, one) for place, one in enumerate(sessions)][::-1]
        assert await found_together(log, reader, heads) == sessions[::-1]
        assert reader.stretches == 1
        assert reader.records == 50


async def test_what_stands_between_two_sessions_far_apart_is_not_read(settings: Settings) -> None:
    sessions = [saved(f"s{number}") for number in range(3 * NEAR_RECORDS)]
    async with looking_through(settings, sessions) as (log, reader):
        ends = [at(place, sessions[place]) for place in (0, 5, 3 * NEAR_RECORDS - 1)]
        found = await found_together(log, reader, ends)
        assert [one and one.session_id for one in found] == [one.session_id for one in ends]
        assert reader.stretches == 2
        assert reader.records == 7


async def test_a_checkpoint_that_is_gone_is_none_and_holds_up_no_other(settings: Settings) -> None:
    async with looking_through(settings, [saved("a"), saved("b")]) as (log, reader):
        asked = (at(0, saved("gone")), at(1, saved("b")), at(0, saved("a", turn=2)))
        assert await found_together(log, reader, asked) == [None, saved("b"), None]


async def test_a_checkpoint_of_another_user_with_the_same_names_is_not_given(
    settings: Settings,
) -> None:
    others = saved("a").model_copy(update={"user_id": "bob"})
    async with looking_through(settings, [others, saved("a")]) as (log, reader):
        asked = (at(0, saved("a")), at(0, others))
        assert await found_together(log, reader, asked) == [saved("a"), others]


async def test_nobody_looks_on_for_a_session_that_no_longer_waits(settings: Settings) -> None:
    sessions = [saved(f"s{number}") for number in range(100)]
    async with looking_through(settings, sessions) as (log, reader):
        async with reader.lock:
            stays = asyncio.create_task(log.find(at(3, sessions[3])))
            reader.leaves = asyncio.create_task(log.find(at(0, saved("gone"))))
            await asyncio.wait({stays, reader.leaves}, timeout=0)
        assert await stays == sessions[3]
        assert reader.records == 4
