"""The cases of a whole lane over the broker in memory."""

from __future__ import annotations

import pytest

from millstream.streams.settings import Settings
from tests.contracts.lane_contract import LaneCases, LaneContract
from tests.contracts.waiting_lane_contract import (
    Crashes,
    LostAttemptsContract,
    ParkingCrashesContract,
    TimeLimitsContract,
    WaitingLaneContract,
)
from tests.harness import memory_lanes
from tests.harness.memory_lanes import MemoryLanes


class InMemory(LaneCases):
    harness = memory_lanes

    def settings_of(self, world: MemoryLanes) -> Settings:
        return world.settings

    def changed(self, world: MemoryLanes, **changes: object) -> MemoryLanes:
        return world.changed(**changes)


class TestMemoryLane(InMemory, LaneContract):
    @pytest.fixture(params=[(), ("executor",)], ids=["whole", "cut"])
    def cuts(self, request: pytest.FixtureRequest) -> tuple[str, ...]:
        cuts: tuple[str, ...] = request.param
        return cuts


@pytest.mark.rule(3)
class TestMemoryLostAttempts(InMemory, LostAttemptsContract):
    pass


class TestMemoryTimeLimits(InMemory, TimeLimitsContract):
    pass


class TestMemoryWaitingLane(InMemory, WaitingLaneContract):
    times_faster = 10


class TestMemoryParkingCrashes(InMemory, ParkingCrashesContract):
    @pytest.fixture
    def world(self, world: MemoryLanes) -> MemoryLanes:
        return world.limited(at_hand_behind=2)

    @pytest.fixture(params=[(1000, False), (2, False), (1000, True)])
    def place(self, request: pytest.FixtureRequest) -> tuple[int, bool]:
        place: tuple[int, bool] = request.param
        return place

    @pytest.fixture(params=range(3))
    def crashes(self, request: pytest.FixtureRequest, place: tuple[int, bool]) -> Crashes:
        waiting_per_user_max, is_behind = place
        handed = {"seed": request.param, "is_behind": is_behind, "slow_s": (0, 0.002, 0.02)}
        return Crashes(park_after_s=0.01, waiting_per_user_max=waiting_per_user_max, handed=handed)
