"""A header that says nothing stands in no request's way."""

from __future__ import annotations

import pytest
import structlog

from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import CommandObeyed
from millstream.schemas.topics import CONTROL, DEAD_LETTERS, OBEYED, REQUESTS, RESULTS
from millstream.streams.wire.codec import ORIGIN, REDRIVEN
from millstream.streams.wire.partitioning import home_partition
from tests.harness.memory_lanes import MemoryLanes, read_topic, read_whole, running_lanes, upstream

pytestmark = pytest.mark.promise("P7")

SECRET = b"Bearer s3cret"


@pytest.mark.parametrize("name", [ORIGIN, REDRIVEN])
@pytest.mark.parametrize("at_home", [True, False], ids=["at-home", "moved"])
async def test_a_request_with_a_header_that_names_no_place_is_served_and_its_writer_told(
    world: MemoryLanes, name: str, *, at_home: bool
) -> None:
    home = home_partition("ada", world.settings.partitions)
    partition = home if at_home else (home + 1) % world.settings.partitions
    asked = {"user_id": "ada", "input": "say: served"}
    command = {"user_id": "ada", "command": "pause", "session_id": "other"}
    headers = [(name, SECRET)]
    with structlog.testing.capture_logs() as lines:
        async with running_lanes(world), upstream(world) as program:
            sent = await program.publish(asked, partition=partition, headers=headers)
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
            await program.publish(
                command, partition=partition, headers=headers, topic=world.topic(CONTROL)
            )
            (mark,) = await read_topic(world, OBEYED, CommandObeyed, count=1)
    assert (result.status, result.output) == ("completed", "served")
    assert (result.source.partition, result.source.offset) == (partition, sent.offset)
    assert (mark.source.topic, mark.source.partition) == (world.topic(CONTROL), partition)
    assert await read_whole(world, DEAD_LETTERS, DeadLetter) == []
    told = [line for line in lines if line["event"] == "header passed over"]
    requests = world.topic(REQUESTS)
    assert [(one["name"], one["source"]) for one in told] == [
        (name, f"{requests}-{partition}-{sent.offset}"),
        (name, f"{mark.source}"),
    ]
    assert SECRET.decode() not in repr(lines)
