"""A worker that may be out of its group makes no call, on real Kafka."""

from __future__ import annotations

import itertools

import pytest

from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.topics import RESULTS, TOKENS
from millstream.streams.consumer.membership import since_boot_s
from millstream.streams.settings import Settings
from tests.harness.lanes import read_topic, read_whole, running_lanes, upstream
from tests.support import eventually

pytestmark = pytest.mark.rule(10)


async def test_a_lane_whose_last_heartbeat_is_too_old_is_dropped_before_it_calls_a_model(
    settings: Settings,
) -> None:
    async with running_lanes(settings) as (lanes,), upstream(settings) as program:
        membership = lanes._membership
        # Each look at it finds that a thousand seconds have passed, whenever a heartbeat was sent.
        membership._clock_s = itertools.count(10**9, 1000).__next__
        await program.publish({"user_id": "ada", "request_id": "r1", "input": "say: x"})
        await eventually(lambda: lanes.figures().lost == 1, timeout_s=30)
        assert await read_whole(settings, TOKENS, AgentToken) == []
        assert await read_whole(settings, RESULTS, AgentResult) == []
        assert lanes.figures().open == settings.partitions - 1
        membership._clock_s = since_boot_s
        membership.heard(since_boot_s())
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
    assert (result.status, result.attempt) == ("completed", 2000)
