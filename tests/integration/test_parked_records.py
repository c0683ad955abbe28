"""What is parked, and what a lane makes of it: never acknowledged too early, never decided anew."""

from __future__ import annotations

import asyncio
import json

import pytest

from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.topics import CONTROL, HOLDS, PARKED
from millstream.streams.settings import Settings
from tests.harness.lanes import ask, lane_services, one_lane, read_topic, read_whole, upstream

pytestmark = pytest.mark.rule(9)


def parked(request_id: str, order: int) -> bytes:
    head = {"tenant": "default", "user_id": "ada", "session_id": "s", "decision": {}}
    return json.dumps({**head, "request_id": request_id, "order": order}).encode()


async def test_a_record_is_not_acknowledged_before_its_parking_is_committed(
    settings: Settings,
) -> None:
    pause = {"user_id": "ada", "command": "pause", "session_id": "s"}
    control = settings.topic(CONTROL.name)
    async with (
        lane_services(settings) as services,
        upstream(settings) as program,
        one_lane(settings, services, None) as zombie,
    ):
        zombie.serve(await program.publish(pause, key=b"ada", topic=control), pause)
        await read_topic(settings, HOLDS, HoldPlaced, count=1)
        async with one_lane(settings, services, None):
            zombie.serve(*await ask(program, "x", session_id="s"))
            await asyncio.wait_for(zombie.lane.lost, 30)
    assert set(zombie.acked_of) <= {control}
    assert await read_whole(settings, PARKED, RunParked) == []
