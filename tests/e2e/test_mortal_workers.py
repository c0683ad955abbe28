"""A record that kills each worker that reads it is found, by workers that are killed."""

from __future__ import annotations

import asyncio

import pytest

from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import DEAD_LETTERS, RESULTS, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.lane.input.careful_reading import CAREFUL_FROM, DEATHS_MAX
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from tests.harness.lanes import read_topic, upstream
from tests.harness.mortal_worker import KILLS
from tests.harness.worker_process import worker_process

pytestmark = [pytest.mark.promise("P7"), pytest.mark.slow, pytest.mark.timeout(240)]

PROGRAM = ("tests.harness.mortal_worker",)


async def test_a_request_that_kills_whoever_reads_it_is_buried_and_its_neighbours_are_answered(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    home = home_partition("ada", settings.partitions)
    async with upstream(settings) as program:
        for text in ("say: before", KILLS, "say: behind"):
            sent = await program.publish({"user_id": "ada", "input": text}, partition=home)
    answered = asyncio.create_task(
        read_topic(settings, RESULTS, AgentResult, count=2, timeout_s=200)
    )
    deaths = 0
    while not answered.done():
        name = f"worker-{deaths}"
        async with worker_process(settings, roles="lanes", name=name, program=PROGRAM) as worker:
            ended = asyncio.create_task(worker.ended(timeout_s=100))
            await asyncio.wait({ended, answered}, return_when=asyncio.FIRST_COMPLETED)
            deaths += ended.done()
            ended.cancel()
    assert {one.output for one in await answered} == {"before", "behind"}
    assert deaths == CAREFUL_FROM - 1 + DEATHS_MAX
    (letter,) = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
    assert letter.reason.code == "unserviceable"
    assert letter.source.offset == sent.offset - 1
