"""Owners of a partition: who is fenced writes nothing, and what is read again counts once."""

from __future__ import annotations

import asyncio

import pytest

from millstream.schemas.events import Decision
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.topics import DECISIONS, LANES
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from tests.harness.lanes import ask, lane_services, one_lane, read_whole, upstream


@pytest.mark.rule(5)
async def test_a_new_owner_with_fewer_producers_fences_all_of_the_last_ones(
    settings: Settings,
) -> None:
    fewer = settings.model_copy(update={"transactional_producers": 1})
    async with (
        lane_services(settings) as services,
        upstream(settings) as program,
        one_lane(settings, services, None) as zombie,
        one_lane(fewer, services, None),
    ):
        # Its first producer announced it, so the next commit is of one that the new owner has not.
        zombie.serve(*await ask(program, "say: x"))
        await asyncio.wait_for(zombie.lane.lost, 30)
    assert await read_whole(settings, DECISIONS, Decision) == []
    opened = await read_whole(settings, LANES, LaneOpened)
    assert [(one.generation, one.producers) for one in opened] == [(1, 3), (2, 1)]
    home = home_partition("ada", settings.partitions)
    assert {one.partition for one in opened} == {home}
