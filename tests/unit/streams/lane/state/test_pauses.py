"""Which holds may go: those that no command and no result will ever lift."""

from __future__ import annotations

import pytest

from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.base import Address
from millstream.schemas.lane_events import HoldPlaced
from millstream.schemas.topics import DAY_MS
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.pauses import HOLDS_MAX, Pauses, expiry_reason, kept_ms
from millstream.streams.topic_settings.retention import Retention
from tests import making

HERE = Address(topic="requests", partition=0, offset=7)
OLD_MS = kept_ms(Retention())


def state(of: str) -> LaneState:
    folded = LaneState("executor", build_pipeline(), hands_over=False)
    if of == "decided":
        folded.apply(making.decision(stage="executor", source=HERE), 0)
    elif of == "parked":
        folded.park(("default", "ada", "r1"), None)
    elif of == "ended":
        folded.apply(making.result(status="rejected", source=HERE), 0)
    return folded


@pytest.mark.parametrize(
    ("of", "placed_ms", "why"),
    [
        ("unknown", OLD_MS, "its request never came"),
        ("unknown", OLD_MS + 1, None),
        ("decided", OLD_MS, None),
        ("parked", OLD_MS, None),
        ("ended", 2 * OLD_MS, "its request has ended"),
    ],
)
def test_a_hold_on_a_request_goes_once_it_has_ended_or_can_come_no_more(
    of: str, placed_ms: int, why: str | None
) -> None:
    hold = HoldPlaced(user_id="ada", request_id="r1")
    assert expiry_reason(hold, placed_ms, state(of), before_ms=OLD_MS) == why


def test_a_hold_on_a_session_stays_until_it_is_lifted() -> None:
    hold = HoldPlaced(user_id="ada", session_id="s")
    assert expiry_reason(hold, 0, state("unknown"), before_ms=OLD_MS) is None


def test_a_hold_waits_as_long_as_requests_that_are_kept_longer_may_take() -> None:
    longer = Retention({"requests": {"retention.ms": 30 * DAY_MS}})
    assert kept_ms(longer) == 60 * DAY_MS


def hold_of(user_id: str, number: int) -> HoldPlaced:
    return HoldPlaced(user_id=user_id, request_id=f"r{number}")


def test_whoever_floods_leaves_room_for_whoever_does_not() -> None:
    pauses = Pauses()
    for flooding in ("bob", "eve", "ian"):
        for number in range(HOLDS_MAX):
            if pauses.has_room(hold_of(flooding, number)):
                pauses.add(hold_of(flooding, number))
    assert len(pauses) < HOLDS_MAX
    assert not pauses.has_room(hold_of("bob", HOLDS_MAX))
    assert pauses.has_room(hold_of("ada", 1))
    pauses.add(hold_of("ada", 1))
    pauses.add(hold_of("ada", 1))  # read again, it is one still
    assert hold_of("ada", 1) in pauses
    left = len(pauses)
    pauses.remove(hold_of("bob", 0))
    pauses.remove(hold_of("bob", 0))
    assert len(pauses) == left - 1


def test_of_a_partition_that_nobody_else_uses_a_user_has_half() -> None:
    pauses = Pauses()
    while pauses.has_room(hold_of("ada", len(pauses))):
        pauses.add(hold_of("ada", len(pauses)))
    assert len(pauses) == HOLDS_MAX // 2
