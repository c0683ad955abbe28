"""Random histories: state is a fold, and a cut chain decides as the whole one does."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.middleware.base import MiddlewareContext, RunAccount
from millstream.middleware.cost import CostTrackingMiddleware
from millstream.middleware.pipeline import MiddlewarePipeline, build_pipeline
from millstream.middleware.policy import Policy
from millstream.middleware.prices import PriceTable
from millstream.middleware.spend.ledger import DayAccount
from millstream.schemas.base import CallUsage, Event, Reason, Usage
from millstream.schemas.errors import Rejected
from millstream.schemas.events import (
    AgentResult,
    AttemptStarted,
    CostRecorded,
    Decision,
    ResolvedRequest,
    ResultStatus,
)
from millstream.schemas.runs.reservations import CallReserved, NextCall
from tests.making import NOON_MS, context, resolved, result_of, used

pytestmark = pytest.mark.promise("P5")

POLICY = Policy.from_yaml(
    """
    roles: {reader: {templates: [chat_agent]}}
    defaults: {roles: [reader], rate: {requests: 3, window_s: 20}, spend: {micros_per_day: 500}}
    users:
      bob: {spend: unlimited}
      cyd: {rate: unlimited, spend: {micros_per_day: 350}}
    prices: {local: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}
    """,
    "p",
)
PRICES = PriceTable(POLICY.prices)
CUTS = ("logging", "cost", "rate_limit", "executor")

USERS = st.sampled_from(("ada", "bob", "cyd"))
HOUR_MS = 3_600_000
CALL_MAX = Usage(input_tokens=100, output_tokens=100)


@dataclass(frozen=True)
class Ask:
    """A request of a user, some time after the one before; time may go back."""

    user_id: str
    after_ms: int
    template: str
    model: str


@dataclass(frozen=True)
class End:
    """The end of one of the open runs. Not `known`: nobody said what its last attempt used."""

    pick: int
    tokens: int
    failed: bool
    known: bool


@dataclass(frozen=True)
class Retry:
    """The end of an attempt of one of the open runs, after which another is to begin."""

    pick: int
    tokens: int
    known: bool


@dataclass(frozen=True)
class Call:
    """The end of a call of one of the open runs, after which another is to be made."""

    pick: int
    tokens: int


Step = Ask | End | Retry | Call


@dataclass
class Open:
    """A run under way: its request, what it reserved and spent, and its newest attempt's mark.

    `over` are the calls of the attempt that are over, `reserved` what was reserved for the next.
    """

    asked: ResolvedRequest
    model: str
    reserved_micros: int
    attempt: int = 0
    started: AttemptStarted | None = None
    spent_micros: int = 0
    over: tuple[CallUsage, ...] = ()
    reserved: CallReserved | None = None


ASKS = st.builds(
    Ask,
    user_id=USERS,
    after_ms=st.one_of(
        st.integers(-5_000, 15_000), st.sampled_from((0, 20_000, 9 * HOUR_MS, 30 * HOUR_MS))
    ),
    template=st.sampled_from(("chat_agent", "chat_agent", "chat_agent", "react_agent")),
    model=st.sampled_from(("local", "local", "scripted", "nobody:knows")),
)
PICKS = st.integers(0, 50)
TOKENS = st.integers(0, 250)
"""A run may write 100 and read 100, which is all that is reserved for it."""

ENDS = st.builds(End, pick=PICKS, tokens=TOKENS, failed=st.booleans(), known=st.booleans())
RETRIES = st.builds(Retry, pick=PICKS, tokens=TOKENS, known=st.booleans())
CALLS = st.builds(Call, pick=PICKS, tokens=TOKENS)
HISTORIES = st.lists(st.one_of(ASKS, ENDS, RETRIES, CALLS), max_size=60)
WITHOUT_RETRIES = st.lists(st.one_of(ASKS, ENDS), max_size=60)


@dataclass
class Live:
    """Lanes of one partition, one per stage: what they decided and what they wrote, in order."""

    stages: tuple[MiddlewarePipeline, ...]
    decided: list[Decision] = field(default_factory=list)
    written: list[Event] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)
    now_ms: int = NOON_MS
    asked: int = 0

    @property
    def runner(self) -> MiddlewarePipeline:
        return self.stages[-1]

    def play(self, steps: list[Step]) -> None:
        for step in steps:
            match step:
                case Ask():
                    self.ask(step)
                case End() | Retry() if self.open:
                    self.go_on(step)
                case Call() if self.open and self.runner.reserves_calls:
                    self.call(step)
                case _:
                    pass

    def ask(self, step: Ask) -> None:
        self.now_ms += step.after_ms
        self.asked += 1
        asked = resolved(
            request_id=f"r{self.asked}",
            user_id=step.user_id,
            template=step.template,
            at_ms=self.now_ms,
        )
        reserved_micros = 0
        for stage in self.stages:
            decision = stage.decide(self.context(asked, step.model), generation=1)
            reserved_micros += decision.reserved_micros
            self.written.append(decision)
            if not decision.admitted:
                refused = result_of(asked, status="rejected", model=None)
                self.end(stage, refused.model_copy(update={"reason": decision.reason}))
                break
        else:
            self.begin(Open(asked, step.model, reserved_micros))
        self.decided.append(decision)

    def begin(self, run: Open) -> None:
        begun = self.runner.begin(
            self.context(run.asked, run.model),
            RunAccount(run.reserved_micros, run.spent_micros),
            attempt=run.attempt,
        )
        if isinstance(begun, Rejected):
            failed = result_of(run.asked, status="failed", model=run.model)
            self.end(self.runner, failed.model_copy(update={"cost_micros": run.spent_micros}))
            return
        run.started = begun
        self.open.append(run)
        if begun is not None:
            self.write(self.runner, begun)

    def go_on(self, step: End | Retry) -> None:
        self.over(self.open.pop(step.pick % len(self.open)), step)

    def over(self, run: Open, step: End | Retry) -> None:
        started = run.started
        if started is not None and run.reserved is not None and not step.known:
            # As a lost attempt counts (`OpenAttempt.left_behind`).
            most_micros = run.reserved.reserved_micros - started.spent_micros
            started = started.model_copy(update={"reserved_micros": most_micros})
        tokens = sum(one.usage.output_tokens for one in run.over) + step.tokens
        ended = used(tokens, model=run.model, known=step.known, started=started)
        for cost in self.runner.charge(run.asked, ended):
            self.write(self.runner, cost)
            assert isinstance(cost, CostRecorded)
            run.spent_micros += cost.cost_micros
        if isinstance(step, Retry):
            again = {"attempt": run.attempt + 1, "started": None, "over": (), "reserved": None}
            self.begin(dataclasses.replace(run, **again))
            return
        status: ResultStatus = "failed" if step.failed else "completed"
        self.end(
            self.runner,
            result_of(run.asked, status=status, model=run.model).model_copy(
                update={"cost_micros": run.spent_micros}
            ),
        )

    def call(self, step: Call) -> None:
        run = self.open[step.pick % len(self.open)]
        if run.started is None or not run.started.reserved_micros:
            return
        run.over = (*run.over, CallUsage(Usage(output_tokens=step.tokens)))
        call = NextCall(CALL_MAX, over=run.over)
        asked = self.context(run.asked, run.model)
        quote = self.runner.reserve(asked, run.started, call)
        if isinstance(quote, Rejected):
            self.open.remove(run)
            self.over(run, End(0, 0, failed=True, known=True))
        elif quote is not None:
            number = 1 if run.reserved is None else run.reserved.call + 1
            micros, digest = quote.reserved_micros, quote.price_digest
            run.reserved = CallReserved.of(
                run.started, call, number=number, micros=micros, digest=digest
            )
            self.runner.fold(run.reserved)
            self.write(self.runner, run.reserved)

    def context(self, asked: ResolvedRequest, model: str) -> MiddlewareContext:
        first = CALL_MAX if self.runner.reserves_calls else None
        return dataclasses.replace(context(asked, model=model), first_call=first)

    def end(self, writer: MiddlewarePipeline, ended: AgentResult) -> None:
        writer.fold(ended)
        self.write(writer, ended)

    def write(self, writer: MiddlewarePipeline, event: Event) -> None:
        """Put on the log what its writer has folded, and feed it to the stages that need it."""
        self.written.append(event)
        for stage in self.stages:
            if stage is not writer and type(event) in stage.needs:
                stage.fold(event)


def fused() -> Live:
    return Live((build_pipeline(POLICY, PRICES),))


def cut(cuts: tuple[str, ...]) -> Live:
    """Each stage in a lane of its own, with layers of its own: none sees another's state."""
    stages = range(len(cuts) + 1)
    return Live(tuple(build_pipeline(POLICY, PRICES).split(cuts)[number] for number in stages))


def outcomes(decisions: list[Decision]) -> list[tuple[bool, str | None, Reason | None]]:
    return [(each.admitted, each.layer, each.reason) for each in decisions]


def probes(pipeline: MiddlewarePipeline, from_ms: int) -> list[object]:
    """Ask without folding, now and later: what a state would answer is what it is."""
    answers: list[object] = []
    for user_id in ("ada", "bob", "cyd"):
        for after_ms in (-3 * HOUR_MS, -1, 0, 1, 5_000, 20_000, 24 * HOUR_MS):
            asked = resolved(request_id="probe", user_id=user_id, at_ms=from_ms + after_ms)
            for layer in pipeline.layers:
                answer = layer.admit(context(asked))
                answers.append((repr(answer.rejection), answer.reserved_micros))
                if isinstance(layer, CostTrackingMiddleware):
                    answers.append(dataclasses.astuple(layer.spend("default", user_id, from_ms)))
    return answers


@given(steps=HISTORIES)
def test_folding_what_was_written_gives_the_state_that_was_live(steps: list[Step]) -> None:
    live = fused()
    live.play(steps)
    restored = build_pipeline(POLICY, PRICES)
    for event in live.written:
        restored.fold(event)
    assert probes(restored, live.now_ms) == probes(live.stages[0], live.now_ms)
    assert restored.canonical() == live.stages[0].canonical()


@given(
    steps=HISTORIES,
    cut=st.floats(0, 1),
    cuts=st.sampled_from(((), ("cost",), ("rate_limit",), ("executor",))),
)
def test_state_that_was_given_and_loaded_is_folded_on_as_if_nothing_had_happened(
    steps: list[Step], cut: float, cuts: tuple[str, ...]
) -> None:
    live = Live(build_pipeline(POLICY, PRICES).split(cuts))
    live.play(steps)
    at = round(cut * len(live.written))
    for whole, before, after in zip(
        live.stages,
        build_pipeline(POLICY, PRICES).split(cuts),
        build_pipeline(POLICY, PRICES).split(cuts),
        strict=True,
    ):
        for event in live.written[:at]:
            before.fold(event)
        state = before.states.given()
        given_state = json.dumps(state)
        for event in live.written[at:]:
            before.fold(event)
        assert json.dumps(state) == given_state  # it shares nothing with what is folded on
        assert after.states.load(json.loads(given_state), before.states.folded_under) == ()
        assert json.dumps(after.states.given()) == given_state
        for event in live.written[at:]:
            after.fold(event)
        assert after.states.given() == before.states.given()
        assert after.canonical() == before.canonical()
        assert probes(after, live.now_ms) == probes(whole, live.now_ms)


@given(steps=HISTORIES)
def test_topics_folded_one_after_another_give_the_same_state(steps: list[Step]) -> None:
    live = fused()
    live.play(steps)
    orders = itertools.product(
        itertools.permutations((AttemptStarted, CallReserved)),
        itertools.permutations((CostRecorded, AgentResult)),
    )
    for begun, later in orders:
        restored = build_pipeline(POLICY, PRICES)
        for kind in (Decision, *begun, *later):
            for event in live.written:
                if type(event) is kind:
                    restored.fold(event)
        assert probes(restored, live.now_ms) == probes(live.stages[0], live.now_ms)
        assert restored.canonical() == live.stages[0].canonical()


RATES = st.one_of(
    st.none(),
    st.tuples(st.integers(1, 4), st.sampled_from((5, 20, 60))),
)


@given(
    steps=HISTORIES,
    cut=st.floats(0, 1),
    before=st.tuples(RATES, RATES),
    now=st.tuples(RATES, RATES),
)
@example([Ask("bob", 1, "chat_agent", "local")] * 3, 1.0, ((2, 20), None), ((1, 5), None))
def test_state_of_another_policy_is_taken_only_where_it_decides_as_if_all_were_folded_under_this(
    steps: list[Step],
    cut: float,
    before: tuple[tuple[int, int] | None, ...],
    now: tuple[tuple[int, int] | None, ...],
) -> None:
    old, new = rated(*before), rated(*now)
    live = Live((build_pipeline(old, PRICES),))
    live.play(steps)
    at = round(cut * len(live.written))
    folded, whole, loaded = (build_pipeline(one, PRICES) for one in (old, new, new))
    for event in live.written[:at]:
        folded.fold(event)
        whole.fold(event)
    state = json.loads(json.dumps(folded.states.given()))
    anew = loaded.states.load(state, folded.states.folded_under)
    if all(
        two is None or (one and two <= one and two[1] <= one[1])
        for one, two in zip(before, now, strict=True)
    ):
        assert anew == ()
    if anew:
        assert [layer.name for layer in anew] == ["rate_limit"]
        return
    assert loaded.canonical() == whole.canonical()
    for event in live.written[at:]:
        loaded.fold(event)
        whole.fold(event)
    assert loaded.canonical() == whole.canonical()
    assert probes(loaded, live.now_ms) == probes(whole, live.now_ms)


def rated(others: tuple[int, int] | None, ada: tuple[int, int] | None) -> Policy:
    """Give a policy with a rate for ada and one for others: requests, and seconds."""
    rate, of_ada = (
        "unlimited" if one is None else {"requests": one[0], "window_s": one[1]}
        for one in (others, ada)
    )
    return Policy.model_validate(
        {
            "roles": {"all": {"templates": ["*"]}},
            "defaults": {"roles": ["all"], "rate": rate, "spend": {"micros_per_day": 500}},
            "users": {"ada": {"rate": of_ada}},
        }
    )


@given(steps=HISTORIES, chance=st.randoms(use_true_random=False))
def test_topics_folded_side_by_side_give_the_same_state_whichever_is_ahead(
    steps: list[Step], chance: Random
) -> None:
    """Leaders of partitions have clocks of their own: a result may come before its decision."""
    live = fused()
    live.play(steps)
    restored = build_pipeline(POLICY, PRICES)
    for event in interleaved(live.written, chance):
        restored.fold(event)
    assert restored.canonical() == live.stages[0].canonical()
    assert probes(restored, live.now_ms) == probes(live.stages[0], live.now_ms)


def interleaved(events: list[Event], chance: Random) -> Iterator[Event]:
    """Give events in an order in which those of each type keep theirs."""
    topics: dict[type[Event], list[Event]] = {}
    for event in reversed(events):
        topics.setdefault(type(event), []).append(event)
    while topics:
        kind = chance.choice(sorted(topics, key=lambda kind: kind.__name__))
        yield topics[kind].pop()
        if not topics[kind]:
            del topics[kind]


@given(steps=HISTORIES, before=HISTORIES)
def test_a_restored_lane_goes_on_as_if_nothing_had_happened(
    before: list[Step], steps: list[Step]
) -> None:
    live = fused()
    live.play(before)
    restored = dataclasses.replace(
        live,
        stages=fused().stages,
        decided=[],
        written=list(live.written),
        open=[dataclasses.replace(run) for run in live.open],
    )
    for event in live.written:
        restored.stages[0].fold(event)
    live.decided.clear()
    live.play(steps)
    restored.play(steps)
    assert restored.decided == live.decided


ANY_CUTS = st.sets(st.sampled_from(CUTS)).map(lambda some: tuple(sorted(some, key=CUTS.index)))


@given(steps=WITHOUT_RETRIES, cuts=ANY_CUTS)
def test_a_cut_chain_decides_as_the_whole_one(steps: list[Step], cuts: tuple[str, ...]) -> None:
    whole = fused()
    staged = cut(cuts)
    whole.play(steps)
    staged.play(steps)
    assert outcomes(staged.decided) == outcomes(whole.decided)
    for stage, was in zip(cut(cuts).stages, staged.stages, strict=True):
        # Each stage restores from the same topics, which hold every stage's records.
        for event in staged.written:
            stage.fold(event)
        assert probes(stage, staged.now_ms) == probes(was, staged.now_ms)


def accounts(live: Live) -> Iterator[tuple[str, DayAccount]]:
    """Give every account, in whichever stage it is kept, with its user."""
    for stage in live.stages:
        for layer in stage.layers:
            if isinstance(layer, CostTrackingMiddleware):
                for users in layer._ledger.days.values():
                    yield from ((user_id, day) for (_, user_id), day in users.items())


@given(steps=HISTORIES, cuts=ANY_CUTS)
def test_what_is_spent_and_reserved_is_never_over_the_cap(
    steps: list[Step], cuts: tuple[str, ...]
) -> None:
    """As long as no call costs more than it reserved: 250 tokens may be used, 200 are."""
    bounded = [
        step if isinstance(step, Ask) else dataclasses.replace(step, tokens=min(step.tokens, 100))
        for step in steps
    ]
    live = cut(cuts)
    for step in bounded:
        live.play([step])
        for user_id, day in accounts(live):
            cap_micros = POLICY.rules_for("default", user_id).cap_micros
            assert cap_micros is None or day.taken_micros <= cap_micros
            assert day.held_micros == sum(each.held_micros for each in day.open.values())
