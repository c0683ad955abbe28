"""Topics read side by side: whichever broker's clock is ahead, what a lane knows is the same.

A result may come before its decision, and a cost before its attempt. Within a topic the order is
that of its offsets.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from aiokafka import TopicPartition
from hypothesis import example, given, settings
from hypothesis import strategies as st

from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.base import CallUsage, Event, Usage
from millstream.schemas.events import AgentResult
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.runs.reservations import CallReserved
from millstream.streams.lane.state.lane_state import LaneState
from tests import making
from tests.harness.deployment import Deployment
from tests.harness.writing_lane import POLICY

pytestmark = [pytest.mark.promise("P8"), pytest.mark.rule(3)]

Log = list[tuple[Event, int]]


def folded(logs: list[Log], chance: Random | None) -> LaneState:
    """Fold logs one after the other, or with a choice of which is read next."""
    state = LaneState("chain", build_pipeline(POLICY), hands_over=False)
    state.out_of_order()
    for event, offset in interleaved(logs, chance):
        state.restore(event, offset)
    state.in_order_of_time()
    return state


def interleaved(logs: list[Log], chance: Random | None) -> Iterator[tuple[Event, int]]:
    left = [iter(log) for log in logs]
    while left:
        log = left[0] if chance is None else chance.choice(left)
        try:
            yield next(log)
        except StopIteration:
            left.remove(log)


def of(request_id: str, **fields: Any) -> dict[str, Any]:
    return {"user_id": "ada", "request_id": request_id, "at_ms": making.NOON_MS, **fields}


def decision(request_id: str, **fields: Any) -> Event:
    given = {
        "passed": ("auth", "cost", "rate_limit"),
        "reserved_micros": 100,
        "request_digest": "00000000000000ab",
    }
    return making.decision(**of(request_id, **given | fields))


def attempt(request_id: str, number: int = 1000, **fields: Any) -> Event:
    most = {"usage_max": Usage(output_tokens=9), "reserved_micros": 100}
    return making.attempt(**of(request_id, attempt=number, **most | fields))


def reservation(request_id: str, number: int = 1000) -> Event:
    most = {"usage_max": Usage(output_tokens=9), "reserved_micros": 109, "price_digest": "d"}
    return CallReserved(
        session_id="s", **of(request_id, attempt=number, call=1, model="local", **most)
    )


def cost(request_id: str, number: int = 1000) -> Event:
    return making.cost(**of(request_id, attempt=number, cost_micros=9))


def step(request_id: str, place: int, number: int = 1000) -> Event:
    used = (CallUsage(Usage(output_tokens=place + 1)),)
    made = {"step": place, "attempt": number, "kind": "answered", "used": used}
    return JournalStep(session_id="s", **of(request_id, **made))


def result(request_id: str, **fields: Any) -> Event:
    return making.result(**of(request_id, accepted_at_ms=making.NOON_MS, **fields))


RUNS = ("open", "running", "again", "ended", "refused", "free", "unmarked")


def history(requests: int) -> list[Log]:
    """Give the records of runs of each kind, a log for each topic."""
    decisions: list[Event] = []
    attempts: list[Event] = []
    reservations: list[Event] = []
    costs: list[Event] = []
    steps: list[Event] = []
    results: list[Event] = []
    for number in range(requests):
        for kind in RUNS:
            name = f"{kind}-{number}"
            refused = {"admitted": False, "passed": ()}
            decisions.append(decision(name, **refused if kind == "refused" else {}))
            if kind in {"running", "again", "ended"}:
                attempts.append(attempt(name))
                reservations.append(reservation(name))
                steps.append(step(name, 0))
            if kind == "again":
                costs.append(cost(name))
                attempts.append(attempt(name, 1001, spent_micros=9))
                reservations.append(reservation(name, 1001))
                steps.append(step(name, 1, 1001))
                costs.append(cost(name, 1001))
            if kind == "unmarked":
                steps.append(step(name, 0))
            if kind == "ended":
                costs.append(cost(name))
                results.append(result(name, cost_micros=9))
            if kind == "refused":
                results.append(result(name, status="rejected"))
            if kind == "free":
                steps.append(step(name, 0))
                results.append(result(name))
    logs = (decisions, attempts, reservations, costs, steps, results, [making.obeyed()])
    return [[(event, offset) for offset, event in enumerate(log)] for log in logs]


@given(chance=st.randoms(use_true_random=False), requests=st.integers(1, 3))
@settings(deadline=None, max_examples=200)
@example(chance=Random(1), requests=3)  # noqa: S311  the same order each time
def test_a_lane_knows_the_same_whichever_topic_is_ahead(chance: Random, requests: int) -> None:
    logs = history(requests)
    assert folded(logs, chance).digests() == folded(logs, None).digests()


@given(chance=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_results_first_of_all_leave_no_run_open_that_is_over(chance: Random) -> None:
    logs = history(2)
    results = next(log for log in logs if isinstance(log[0][0], AgentResult))
    rest = [log for log in logs if log is not results]
    state = LaneState("chain", build_pipeline(POLICY), hands_over=False)
    state.out_of_order()
    for event, offset in (*results, *interleaved(rest, chance)):
        state.restore(event, offset)
    state.in_order_of_time()
    assert state.digests() == folded(logs, None).digests()
    assert {key[2].partition("-")[0] for key in state.decided} == {
        "open",
        "running",
        "again",
        "unmarked",
    }


@pytest.mark.parametrize("skew_ms", [-3_600_000, -700, 700, 3_600_000])
@pytest.mark.parametrize("topic", ["decisions", "results", "costs", "attempts"])
async def test_a_broker_whose_clock_is_off_changes_nothing_in_a_restore(
    topic: str, skew_ms: int
) -> None:
    deployment = Deployment(3, snapshot_records=1_000_000)
    async with deployment.lane() as lane:
        await lane.play(deployment.chance, 200, deployment.clock)
        await lane.settled()
        live = lane.state.digests()
    for record in deployment.broker.partition(
        TopicPartition(deployment.settings.topic(topic), 0)
    )._records:
        record.timestamp += skew_ms
    state, restored = await deployment.restored()
    assert restored.snapshot is None
    assert state.digests() == live
