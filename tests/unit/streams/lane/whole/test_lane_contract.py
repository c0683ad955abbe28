"""The cases of a whole lane over the broker in memory."""

from __future__ import annotations

import pytest

from millstream.streams.settings import Settings
from tests.contracts.lane_contract import LaneContract
from tests.harness import memory_lanes
from tests.harness.memory_lanes import MemoryLanes


class TestMemoryLane(LaneContract):
    harness = memory_lanes

    def settings_of(self, world: MemoryLanes) -> Settings:
        return world.settings

    def changed(self, world: MemoryLanes, **changes: object) -> MemoryLanes:
        return world.changed(**changes)

    @pytest.fixture(params=[(), ("executor",)], ids=["whole", "cut"])
    def cuts(self, request: pytest.FixtureRequest) -> tuple[str, ...]:
        cuts: tuple[str, ...] = request.param
        return cuts
