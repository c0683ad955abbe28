"""The cases of a whole lane on real Kafka."""

from __future__ import annotations

import pytest

from millstream.streams.settings import Settings
from tests.contracts.lane_contract import LaneContract
from tests.harness import lanes


class TestKafkaLane(LaneContract):
    harness = lanes

    @pytest.fixture
    def world(self, settings: Settings) -> Settings:
        return settings

    def settings_of(self, world: Settings) -> Settings:
        return world

    def changed(self, world: Settings, **changes: object) -> Settings:
        return world.model_copy(update=changes)

    @pytest.fixture
    def cuts(self) -> tuple[str, ...]:
        return ("executor",)
