"""The cases of a whole lane on real Kafka."""

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
from tests.harness import lanes


class OnKafka(LaneCases):
    harness = lanes

    @pytest.fixture
    def world(self, settings: Settings) -> Settings:
        return settings

    def settings_of(self, world: Settings) -> Settings:
        return world

    def changed(self, world: Settings, **changes: object) -> Settings:
        return world.model_copy(update=changes)


class TestKafkaLane(OnKafka, LaneContract):
    @pytest.fixture
    def cuts(self) -> tuple[str, ...]:
        return ("executor",)


class TestKafkaLostAttempts(OnKafka, LostAttemptsContract):
    pass


class TestKafkaTimeLimits(OnKafka, TimeLimitsContract):
    pass


class TestKafkaWaitingLane(OnKafka, WaitingLaneContract):
    times_faster = 1

    @pytest.mark.rule(9)
    @pytest.mark.slow
    async def test_a_mate_is_answered_while_a_flood_waits_unread(self, world: Settings) -> None:
        await super().test_a_mate_is_answered_while_a_flood_waits_unread(world)


@pytest.mark.slow
class TestKafkaParkingCrashes(OnKafka, ParkingCrashesContract):
    @pytest.fixture
    def crashes(self) -> Crashes:
        return Crashes(park_after_s=0.1, waiting_per_user_max=2)
