"""What a restore folds, and what it passes over."""

from __future__ import annotations

import pytest

from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.topics import DECISIONS
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.restore import fold_record
from tests.making import record

pytestmark = pytest.mark.rule(3)


@pytest.mark.parametrize("value", [b"\xff", {"type": "decision"}], ids=["bytes", "shape"])
def test_a_foreign_record_decides_nothing_and_stops_no_restore(
    value: dict[str, str] | bytes,
) -> None:
    state = LaneState("chain", build_pipeline(), hands_over=False)
    fold_record(state, record(value), DECISIONS)
    assert state.decided == {}
    assert len(state.seen) == 0
