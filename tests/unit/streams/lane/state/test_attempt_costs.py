"""The bill of a run is a fold of its attempts and what they cost."""

from __future__ import annotations

from millstream.schemas.base import Address, Usage
from millstream.schemas.events import AgentResult, AttemptStarted, CostRecorded
from millstream.streams.lane.state.attempt_costs import Bill, Bills

KEY = ("default", "ada", "r1")


def started(attempt: int, spent: int = 0) -> AttemptStarted:
    return AttemptStarted(
        user_id="ada",
        request_id="r1",
        session_id="s",
        attempt=attempt,
        model="m",
        usage_max=Usage(input_tokens=9),
        reserved_micros=9,
        price_digest="d",
        spent_micros=spent,
        spent_usage=Usage(input_tokens=spent),
    )


def cost(attempt: int, micros: int) -> CostRecorded:
    return CostRecorded(
        user_id="ada",
        request_id="r1",
        session_id="s",
        attempt=attempt,
        model="m",
        usage=Usage(input_tokens=micros),
        cost_micros=micros,
        price_digest="d",
    )


def folded(*events: AttemptStarted | CostRecorded | AgentResult) -> Bills:
    bills = Bills()
    for event in events:
        bills.fold(event)
    return bills


def test_an_attempt_is_open_until_its_cost_is_known() -> None:
    assert folded(started(1000)).open == {KEY: Bill(started(1000))}
    settled = folded(started(1000), cost(1000, 4)).open[KEY]
    assert settled.cost == cost(1000, 4)
    assert (settled.spent_micros, settled.spent_usage) == (4, Usage(input_tokens=4))


def test_the_newest_attempt_tells_what_the_earlier_ones_count_at() -> None:
    live = folded(started(1000), cost(1000, 4), started(1001, spent=4), cost(1001, 5))
    restored = folded(started(1000), started(1001, spent=4), cost(1000, 4), cost(1001, 5))
    assert live == restored
    assert live.open[KEY].spent_micros == 9


def test_a_run_that_is_over_has_no_bill() -> None:
    over = AgentResult(
        user_id="ada",
        request_id="r1",
        session_id="s",
        status="failed",
        source=Address(topic="requests", partition=0, offset=7),
        accepted_at_ms=1,
    )
    assert folded(started(1000), over).open == {}


def test_a_cost_without_an_attempt_makes_no_bill() -> None:
    assert folded(cost(1000, 4)).open == {}
