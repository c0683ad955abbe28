"""A lane that cannot read what it folds does not serve: it would answer again what is answered."""

from __future__ import annotations

import json

import pytest

from millstream.schemas.base import compound_key
from millstream.schemas.errors import LaneOutdated
from millstream.schemas.topics import (
    ATTEMPTS,
    COSTS,
    DECISIONS,
    DEFERRED,
    HOLDS,
    JOURNAL,
    LANES,
    OBEYED,
    PARKED,
    RESULTS,
    SESSIONS,
    SNAPSHOTS,
    TopicSpec,
)
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.wire.partitioning import home_partition
from tests.contracts.log_world import started
from tests.harness.memory_lanes import (
    MemoryLanes,
    lane_services,
    one_lane,
)

pytestmark = pytest.mark.promise("P1")

FOLDED = (
    ATTEMPTS,
    COSTS,
    DECISIONS,
    DEFERRED,
    HOLDS,
    JOURNAL,
    LANES,
    OBEYED,
    PARKED,
    RESULTS,
    SESSIONS,
    SNAPSHOTS,
)
NEWER = {"schema_version": 2, "renamed": True}
OF_AN_UNKNOWN_SHAPE = json.dumps(NEWER).encode()
OF_A_KNOWN_SHAPE = json.dumps(
    {
        **NEWER,
        "tenant": "default",
        "user_id": "ada",
        "request_id": "r1",
        "session_id": "s",
        "decision": {},
        "order": 1,
    }
).encode()


@pytest.mark.parametrize("value", [OF_AN_UNKNOWN_SHAPE, OF_A_KNOWN_SHAPE], ids=["other", "like"])
@pytest.mark.parametrize("spec", FOLDED, ids=lambda spec: spec.name)
async def test_a_lane_does_not_open_over_a_newer_record(
    world: MemoryLanes, spec: TopicSpec, value: bytes
) -> None:
    await write(world, spec, value)
    async with lane_services(world) as services:
        with pytest.raises(LaneOutdated, match=rf"{spec.name}-\d-0 .*newer than 1.*upgrade"):
            async with one_lane(world, services, None):
                pass


async def test_a_foreign_record_stops_no_lane(world: MemoryLanes) -> None:
    for spec in FOLDED:
        await write(world, spec, b"\xff")
        await write(world, spec, b'{"schema_version": 1}')
    async with lane_services(world) as services, one_lane(world, services, None) as lane:
        assert lane


async def write(world: MemoryLanes, spec: TopicSpec, value: bytes) -> None:
    """Write a record on ada's home partition."""
    world.create_topics()
    home = home_partition("ada", world.settings.partitions)
    key = compound_key("chain", "header") if spec is SNAPSHOTS else "ada"
    async with started(MemoryClients(world.broker).plain_producer()) as producer:
        await producer.send_and_wait(world.topic(spec), value, key.encode(), partition=home)
