"""Requests that are decided on long after they came: after a stop, or out of a flood."""

from __future__ import annotations

import pytest

from millstream.middleware.pipeline import build_pipeline
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.restore import restore
from tests.harness.deployment import Deployment
from tests.harness.writing_lane import WritingLane

pytestmark = pytest.mark.rule(3)

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
R1 = ("default", "ada", "r1")


def is_decided(lane: WritingLane, request_id: str) -> bool:
    return ("default", "ada", request_id) in lane.state.decided


@pytest.mark.parametrize("of_snapshot", [True, False], ids=["snapshot", "topics"])
async def test_a_stop_does_not_count_in_how_long_an_id_is_remembered(*, of_snapshot: bool) -> None:
    deployment = Deployment(1, snapshot_records=1_000_000)
    came_ms = deployment.clock()
    async with deployment.lane() as lane:
        lane.ask("r1", "ada", came_ms)
        lane.end("r1", tokens=1, at_ms=came_ms)
        await lane.settled()
        if of_snapshot:
            await lane.snapshots.close(20)
    deployment.clock.tick(3 * DAY_MS)
    async with deployment.lane() as lane:
        lane.ask("r2", "ada", came_ms + HOUR_MS)
        await lane.settled()
        assert is_decided(lane, "r2")
        assert lane.state.is_finished(R1)
    # Behind r2 there may stand what came an hour after r1 under its id.
    state, restored = await deployment.restored()
    assert (restored.snapshot is not None) == of_snapshot
    assert state.is_finished(R1)


async def test_a_stage_remembers_what_it_handed_over_long_after_it_came() -> None:
    deployment = Deployment(2, snapshot_records=1_000_000)
    came_ms = deployment.clock()
    deployment.clock.tick(3 * DAY_MS)
    async with deployment.lane() as lane:
        lane.ask("r1", "ada", came_ms)
        await lane.settled()
    state = LaneState("chain", build_pipeline(), hands_over=True)
    now_ms = deployment.clock()
    async with deployment.reader() as reader:
        await restore(state, reader, deployment.settings, partition=0, now_ms=now_ms)
    assert state.is_finished(R1)


@pytest.mark.parametrize("of_snapshot", [True, False], ids=["snapshot", "topics"])
async def test_what_was_refused_long_after_it_came_is_remembered_from_then_on(
    *, of_snapshot: bool
) -> None:
    deployment = Deployment(3, snapshot_records=1_000_000)
    came_ms = deployment.clock()
    now_ms = deployment.clock.tick(3 * DAY_MS)
    async with deployment.lane() as lane:
        lane.ask("newest", "eve", now_ms)
        for number in range(6):  # one more than the policy admits
            lane.ask(f"r{number}", "ada", came_ms, decided_ms=now_ms)
        assert "r4" in lane.open
        assert "r5" not in lane.open
        await lane.settled()
        assert lane.state.decided_until_ms == now_ms
        assert lane.state.is_finished(("default", "ada", "r5"))
        if of_snapshot:
            await lane.snapshots.close(20)
    state, restored = await deployment.restored()
    assert (restored.snapshot is not None) == of_snapshot
    assert state.is_finished(("default", "ada", "r5"))
