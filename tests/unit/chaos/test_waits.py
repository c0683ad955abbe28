from __future__ import annotations

import pytest

from millstream.schemas.base import Address
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import LaneOpened
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.chaos.calls import Call
from tests.chaos.waits import Wait, longest_waits

PARTITIONS = 4
ADA = home_partition("ada", PARTITIONS)


def result(name: str, came_ms: int, at_ms: int, generation: int, session: str = "s") -> AgentResult:
    return making.result(
        request_id=name,
        session_id=session,
        at_ms=at_ms,
        attempt=generation * 1000,
        template="chat_agent",
        source=Address(topic="requests", partition=ADA, offset=0),
        accepted_at_ms=came_ms,
    )


def opened(at_ms: int, generation: int, partition: int = ADA) -> LaneOpened:
    return making.opened(partition=partition, generation=generation, at_ms=at_ms)


def test_a_wait_is_split_into_what_was_waited_for() -> None:
    results = [
        result("a", 1000, 2000, 1),
        result("b", 1000, 9000, 2),
        result("c", 1000, 9900, 2),
        result("d", 1000, 2500, 1, session="other"),
    ]
    calls = [
        Call("w1", "a", 1400, 1900, finished=True),
        Call("w1", "b", 2100, 3000),
        Call("w2", "b", 8200, 8900, finished=True),
        Call("w2", "c", 9100, 9800, finished=True),
    ]
    lanes = [opened(500, 1), opened(7000, 2), opened(100, 9, ADA + 1)]
    longest, second = longest_waits(results, lanes, calls, PARTITIONS, count=2)
    # Up to 1400 nothing of the session ran; then a and b, until the worker fell silent at 3000;
    # from 7000 there is another, which begins with b at 8200.
    expected = {"in_all_s": 8.9, "unowned_s": 4.0, "unbegun_s": 1.6, "behind_s": 2.5, "own_s": 0.8}
    assert {name: round(getattr(longest, name), 3) for name in expected} == expected
    assert (longest.request_id, second.request_id) == ("c", "b")
    assert second.own_s == pytest.approx(0.9 + 0.8)


def test_a_request_whose_lane_was_there_all_the_time_waited_for_nobody_else() -> None:
    calls = [Call("w", "a", 1100, 1900, finished=True)]
    (only,) = longest_waits([result("a", 1000, 2000, 1)], [opened(0, 1)], calls, 4, count=9)
    assert only == Wait("a", ADA, in_all_s=1, unowned_s=0, unbegun_s=0.1, behind_s=0, own_s=0.9)
    assert str(only) == (
        f"a of partition {ADA} waited 1.0 s: 0.0 without a lane, 0.1 until its session went on, "
        "0.0 behind its session, 0.9 its own"
    )
