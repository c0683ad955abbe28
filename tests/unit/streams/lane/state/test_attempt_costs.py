"""The bill of a run is a fold of its attempts and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.middleware.base import AttemptUsage, MiddlewareContext, RunAccount
from millstream.middleware.cost import CostTrackingMiddleware
from millstream.middleware.pipeline import build_pipeline
from millstream.middleware.policy import Policy
from millstream.middleware.prices import PriceTable
from millstream.schemas.base import Address, CallUsage, Event, Usage
from millstream.schemas.errors import Rejected
from millstream.schemas.events import (
    AgentResult,
    AttemptStarted,
    CostRecorded,
    Decision,
    ResolvedRequest,
)
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.runs.reservations import CallReserved
from millstream.streams.lane.state.attempt_costs import OpenAttempt, OpenAttempts, charge_attempts
from millstream.streams.lane.state.folds import SnapshotBody, packed
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.wire.keys import request_key
from tests import making
from tests.making import NOON_MS, context, resolved, result_of

pytestmark = pytest.mark.rule(7)

KEY = ("default", "ada", "r1")


def started(attempt: int, spent: int = 0) -> AttemptStarted:
    return making.attempt(
        attempt=attempt,
        usage_max=Usage(input_tokens=9),
        reserved_micros=9,
        spent_micros=spent,
        spent_usage=Usage(input_tokens=spent),
    )


def cost(attempt: int, micros: int) -> CostRecorded:
    return making.cost(attempt=attempt, usage=Usage(input_tokens=micros), cost_micros=micros)


def folded(*events: AttemptStarted | CostRecorded | JournalStep | AgentResult) -> OpenAttempts:
    bills = OpenAttempts()
    fold = bills.as_fold().fold
    for event in events:
        fold[type(event)](event)
    return bills


def test_an_attempt_is_open_until_its_cost_is_known() -> None:
    assert folded(started(1000)).open == {KEY: OpenAttempt(started(1000))}
    settled = folded(started(1000), cost(1000, 4)).open[KEY]
    assert settled.costs == {0: cost(1000, 4)}
    assert (settled.spent_micros, settled.spent_usage) == (4, Usage(input_tokens=4))


def test_the_newest_attempt_tells_what_the_earlier_ones_count_at() -> None:
    live = folded(started(1000), cost(1000, 4), started(1001, spent=4), cost(1001, 5))
    restored = folded(started(1000), started(1001, spent=4), cost(1000, 4), cost(1001, 5))
    assert live == restored
    assert live.open[KEY].spent_micros == 9


def test_each_call_of_an_attempt_is_on_its_bill_once_also_through_a_snapshot() -> None:
    calls = [cost(1000, 4), cost(1000, 5).model_copy(update={"call": 1})]
    bills = folded(started(1000), *calls, *calls)
    assert (bills.open[KEY].spent_micros, bills.lost(KEY)) == (9, 0)
    assert through_snapshot(bills) == bills


def through_snapshot(bills: OpenAttempts) -> OpenAttempts:
    again = OpenAttempts()
    again.as_fold().load(SnapshotBody(orjson.loads(packed(bills.as_fold().state()))))
    return again


def step(attempt: int, *used: int) -> JournalStep:
    return JournalStep(
        user_id="ada",
        request_id="r1",
        session_id="s",
        at_ms=0,
        attempt=attempt,
        step=0,
        kind="answered",
        used=tuple(CallUsage(Usage(input_tokens=one)) for one in used),
    )


def test_an_attempt_that_left_a_step_is_not_lost_and_counts_at_its_calls_and_one_more() -> None:
    mark = started(1001).model_copy(
        update={
            "usage_max": Usage(input_tokens=90, output_tokens=40),
            "calls_max": 20,
            "journals": True,
        }
    )
    bills = folded(started(1000), step(1000, 5), mark, step(1001, 3, 4), step(1001))
    assert bills.lost(KEY) == 0
    assert not bills.lost_unjournalled(KEY)
    used = bills.open[KEY].left_behind()
    assert [one.usage.input_tokens for one in used.calls] == [3, 4, 9]
    assert used.calls[-1].usage.output_tokens == 2
    assert used.calls[-1].estimate_reason is not None
    assert used.usage == Usage(input_tokens=16, output_tokens=2)
    assert through_snapshot(bills) == bills


def reserved(call: int, *, over: int, most: int, used: int = 0) -> CallReserved:
    return CallReserved(
        user_id="ada",
        request_id="r1",
        session_id="s",
        attempt=1000,
        call=call,
        model="local",
        usage_max=Usage(input_tokens=most),
        used=Usage(input_tokens=used),
        calls=over,
        reserved_micros=most,
        price_digest="d",
    )


def kind_of(kind: str, *used: int) -> JournalStep:
    return step(1000, *used).model_copy(update={"kind": kind})


@pytest.mark.parametrize(
    ("events", "calls"),
    [
        # The model is not asked anew before the calls of its answer are answered.
        ([kind_of("answered", 3)], [3]),
        ([kind_of("answered", 3), kind_of("intent")], [3]),
        ([kind_of("answered", 3), kind_of("intent"), kind_of("done")], [3]),
        # It may have been once the next call was reserved.
        ([kind_of("answered", 3), kind_of("done"), reserved(1, over=1, most=7)], [3, 7]),
        ([kind_of("answered", 3), kind_of("done"), reserved(1, over=1, most=7)] * 2, [3, 3]),
        (
            [
                kind_of("answered", 3),
                kind_of("done"),
                reserved(1, over=1, most=7),
                kind_of("answered", 4),
            ],
            [3, 4],
        ),
        # What announced a call and made none was asked again at once, and has no step yet.
        (
            [
                kind_of("answered", 3),
                kind_of("done"),
                reserved(1, over=1, most=7, used=3),
                reserved(2, over=2, most=8, used=8),
            ],
            [3, 5, 8],
        ),
        (
            [
                kind_of("answered", 3),
                kind_of("done"),
                reserved(2, over=2, most=8, used=8),
                kind_of("answered", 5, 4),
            ],
            [3, 5, 4],
        ),
        # Another owner's answer is gone on from: nothing was reserved here, and nothing asked.
        ([kind_of("intent")], []),
        ([kind_of("intent"), kind_of("done")], [90]),
    ],
)
def test_a_lost_attempt_counts_a_call_more_only_where_one_may_have_been_under_way(
    events: list[Event], calls: list[int]
) -> None:
    mark = started(1000).model_copy(
        update={"usage_max": Usage(input_tokens=90), "calls_max": 1, "journals": True}
    )
    bills = folded(mark, *events)
    used = bills.open[KEY].left_behind()
    assert [one.usage.input_tokens for one in used.calls] == calls
    # A restore reads topic by topic.
    in_topics = sorted(events, key=lambda one: not isinstance(one, CallReserved))
    assert folded(mark, *in_topics).open[KEY].left_behind() == used
    assert through_snapshot(bills) == bills


def test_an_attempt_that_left_no_step_is_lost_and_of_an_older_version_may_have_made_calls() -> None:
    bills = folded(started(1000))
    assert bills.lost(KEY) == 1
    assert bills.lost_unjournalled(KEY)
    assert bills.open[KEY].left_behind() == AttemptUsage.lost(started(1000))
    mark = started(1000).model_copy(update={"journals": True})
    assert not folded(mark).lost_unjournalled(KEY)


def test_a_run_that_is_over_has_no_bill() -> None:
    over = making.result(status="failed", source=Address(topic="requests", partition=0, offset=7))
    assert folded(started(1000), over).open == {}


def test_a_cost_without_an_attempt_makes_no_bill() -> None:
    assert folded(cost(1000, 4)).open == {}


POLICY = Policy.from_yaml(
    """
    roles: {user: {templates: ["*"]}}
    defaults: {roles: [user]}
    users: {ada: {spend: {micros_per_day: 700}}, bob: {spend: unlimited}}
    prices: {local: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}
    """,
    "p",
)
PRICES = PriceTable(POLICY.prices)
WORST_MICROS = 200
"""A context of `making` reads 100 tokens at most and writes as many."""

RESTORED = (Decision, AttemptStarted, CostRecorded, AgentResult)


def state() -> LaneState:
    return LaneState("chain", build_pipeline(POLICY, PRICES), hands_over=False)


@dataclass
class Lane:
    """A lane without Kafka: what it submits is committed at once, and all that a crash leaves."""

    state: LaneState = field(default_factory=state)
    written: list[Event] = field(default_factory=list)
    attempt: int = 1000
    runs: dict[str, tuple[MiddlewareContext, AttemptStarted | None]] = field(default_factory=dict)

    def commit(self, events: list[Event]) -> None:
        self.written += events
        for event in events:
            self.state.apply(event, 0)

    def ask(self, user_id: str, model: str) -> None:
        asked = context(resolved(request_id=f"r{len(self.written)}", user_id=user_id), model=model)
        decision = self.state.pipeline.decide(asked, generation=1)
        self.commit([decision])
        if decision.admitted:
            self.begin(asked)

    def begin(self, asked: MiddlewareContext) -> None:
        self.attempt += 1
        key = request_key(asked.request)
        charges = charge_attempts(self.state.open_attempts, self.state.pipeline, key)
        decision = self.state.decided[key]
        standing = RunAccount(decision.reserved_micros, charges.micros, charges.usage)
        begun = self.state.pipeline.begin(asked, standing, attempt=self.attempt)
        if isinstance(begun, Rejected):
            self.commit(charges.events)
            self.end(asked.request, None)
            return
        self.commit([*charges.events, *([begun] if begun else [])])
        self.runs[asked.request.request_id] = (asked, begun)

    def used(
        self, request_id: str, tokens: int, *, known: bool
    ) -> tuple[MiddlewareContext, AttemptUsage]:
        asked, started = self.runs.pop(request_id)
        usage = Usage(output_tokens=tokens)
        # Of its two calls, one is a tool's.
        halves = (tokens // 2, tokens - tokens // 2)
        calls = tuple(
            CallUsage(Usage(output_tokens=half), model)
            for half, model in zip(halves, (None, asked.model), strict=True)
        )
        return asked, AttemptUsage(
            self.attempt, asked.model, "chat_agent", usage, known, started, calls
        )

    def retry(self, request_id: str, tokens: int, *, known: bool) -> None:
        asked, used = self.used(request_id, tokens, known=known)
        if used.started is not None:
            ended = (asked.request, self.of(used))
            self.commit(
                charge_attempts(
                    self.state.open_attempts, self.state.pipeline, request_key(asked.request), ended
                ).events
            )
        self.begin(asked)

    def end(self, asked: ResolvedRequest, used: AttemptUsage | None) -> None:
        ended = None if used is None else (asked, self.of(used))
        charges = charge_attempts(
            self.state.open_attempts, self.state.pipeline, request_key(asked), ended
        )
        bill = {"cost_micros": charges.micros, "usage": charges.usage}
        over = result_of(asked).model_copy(update=bill)
        self.state.pipeline.fold(over)
        self.commit([*charges.events, over])

    @staticmethod
    def of(used: AttemptUsage) -> AttemptUsage:
        """An attempt is named by its mark."""
        attempt = used.started.attempt if used.started else used.attempt
        return dataclasses.replace(used, attempt=attempt)

    def crash(self) -> None:
        """Lose all but the log; a new owner goes on with the runs, or a user has cancelled one."""
        live = self.state.digests()
        self.state = state()
        for kind in RESTORED:
            for event in self.written:
                if type(event) is kind:
                    self.state.restore(event, 0)
        assert self.state.digests() == live
        runs, self.runs = self.runs, {}
        for number, (asked, _) in enumerate(runs.values()):
            if number % 3 == 2:
                self.end(asked.request, None)
            else:
                self.begin(asked)


def spending(state: LaneState) -> dict[str, tuple[int, int, int]]:
    (cost,) = (one for one in state.pipeline.layers if isinstance(one, CostTrackingMiddleware))
    days = {user: cost.spend("default", user, NOON_MS) for user in ("ada", "bob")}
    return {
        user: (day.spent_micros, day.reserved_micros, day.runs_open) for user, day in days.items()
    }


Step = Callable[[Lane], None]


def asks(user_id: str, model: str) -> Step:
    return lambda lane: lane.ask(user_id, model)


def goes_on(pick: int, tokens: int, known: bool, again: bool) -> Step:  # noqa: FBT001
    def step(lane: Lane) -> None:
        if not lane.runs:
            return
        request_id = sorted(lane.runs)[pick % len(lane.runs)]
        if again:
            lane.retry(request_id, tokens, known=known)
        else:
            asked, used = lane.used(request_id, tokens, known=known)
            lane.end(asked.request, used)

    return step


STEPS = st.one_of(
    st.builds(
        asks, st.sampled_from(("ada", "bob")), st.sampled_from(("local", "local", "scripted", "x"))
    ),
    st.builds(goes_on, st.integers(0, 9), st.integers(0, 100), st.booleans(), st.booleans()),
    st.just(Lane.crash),
)


def assert_it_adds_up(lane: Lane) -> None:
    """Reserved = settled + released + open, from the topics and the ledger."""
    reserved: dict[str, int] = {}
    settled: dict[str, int] = {}
    released = 0
    for event in lane.written:
        match event:
            case Decision():
                reserved[event.request_id] = event.reserved_micros
                settled[event.request_id] = 0
            case AttemptStarted():
                assert event.spent_micros == settled[event.request_id]
                needed = event.spent_micros + event.reserved_micros
                reserved[event.request_id] = max(reserved[event.request_id], needed)
            case CostRecorded():
                settled[event.request_id] += event.cost_micros
            case AgentResult():
                assert event.cost_micros == settled[event.request_id]
                released += reserved[event.request_id] - event.cost_micros
    days = spending(lane.state).values()
    assert sum(settled.values()) == sum(spent for spent, _, _ in days)
    held = sum(held for _, held, _ in days)
    assert sum(reserved.values()) == sum(settled.values()) + released + held


@given(st.lists(STEPS, max_size=40))
def test_the_ledger_adds_up_through_retries_and_crashes(steps: list[Step]) -> None:
    lane = Lane()
    for step in steps:
        step(lane)
        assert_it_adds_up(lane)
        spent, held, _ = spending(lane.state)["ada"]
        assert spent + held <= 700


@given(st.lists(STEPS, max_size=40))
def test_each_attempt_that_may_cost_is_charged_for_once(steps: list[Step]) -> None:
    lane = Lane()
    for step in steps:
        step(lane)
    for asked, _ in list(lane.runs.values()):
        lane.end(asked.request, None)  # as if its owner had crashed, and its user cancelled it
    started = {
        (one.request_id, one.attempt): one
        for one in lane.written
        if isinstance(one, AttemptStarted)
    }
    costs = [one for one in lane.written if isinstance(one, CostRecorded)]
    marked = [one for one in costs if (one.request_id, one.attempt) in started]
    calls: dict[tuple[str, int], list[int]] = {}
    for one in marked:
        calls.setdefault((one.request_id, one.attempt), []).append(one.call)
    assert calls.keys() == started.keys()
    assert all(numbers == list(range(len(numbers))) for numbers in calls.values())
    assert len({one.event_id for one in costs}) == len(costs)
    assert all(one.model == "scripted" for one in costs if one not in marked)
    for cost in costs:
        if cost.estimated:
            assert cost.cost_micros == started[cost.request_id, cost.attempt].reserved_micros


def crashed(model: str) -> Lane:
    lane = Lane()
    lane.ask("bob", model)
    lane.crash()
    return lane


def test_a_lost_attempt_is_charged_at_its_worst_case_when_the_next_one_begins() -> None:
    lane = crashed("local")
    (_, lost, estimate, again) = lane.written
    assert isinstance(lost, AttemptStarted)
    assert isinstance(estimate, CostRecorded)
    assert isinstance(again, AttemptStarted)
    assert (estimate.attempt, estimate.estimated) == (lost.attempt, True)
    assert estimate.cost_micros == again.spent_micros == WORST_MICROS
    assert again.spent_usage == lost.usage_max


def test_a_lost_attempt_without_a_known_price_is_on_the_bill_as_a_gap() -> None:
    (_, _, estimate, _) = crashed("x").written
    assert isinstance(estimate, CostRecorded)
    assert (estimate.estimated, estimate.cost_micros, estimate.price_digest) == (
        True,
        0,
        "unpriced",
    )


def test_a_lost_attempt_of_a_free_model_leaves_no_record() -> None:
    assert [type(event) for event in crashed("scripted").written] == [Decision]


def test_a_run_whose_lost_attempts_used_its_cap_up_ends() -> None:
    lane = Lane()
    lane.ask("ada", "local")
    for _ in range(3):
        lane.crash()
    assert not lane.runs
    ended = lane.written[-1]
    assert isinstance(ended, AgentResult)
    assert ended.cost_micros == 3 * WORST_MICROS
    assert ended.usage == Usage(input_tokens=300, output_tokens=300)
