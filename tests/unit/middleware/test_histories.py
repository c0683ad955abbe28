"""Random histories: state is a fold, and a cut chain decides as the whole one does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from middleware.cost import CostTrackingMiddleware
from middleware.pipeline import MiddlewarePipeline, build_pipeline
from middleware.policy import Policy
from middleware.prices import PriceTable
from schemas.base import Event, Reason, Usage
from schemas.events import AgentResult, CostRecorded, Decision, ResolvedRequest
from tests.unit.middleware.making import NOON_MS, context, request, result

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


@dataclass(frozen=True)
class Ask:
    """A request of a user, some time after the one before; time may go back."""

    user_id: str
    after_ms: int
    template: str
    model: str


@dataclass(frozen=True)
class End:
    """The end of one of the open runs."""

    pick: int
    tokens: int
    failed: bool


ASKS = st.builds(
    Ask,
    user_id=USERS,
    after_ms=st.one_of(
        st.integers(-5_000, 15_000), st.sampled_from((0, 20_000, 9 * HOUR_MS, 30 * HOUR_MS))
    ),
    template=st.sampled_from(("chat_agent", "chat_agent", "chat_agent", "react_agent")),
    model=st.sampled_from(("local", "local", "scripted", "nobody:knows")),
)
ENDS = st.builds(End, pick=st.integers(0, 50), tokens=st.integers(0, 250), failed=st.booleans())
HISTORIES = st.lists(st.one_of(ASKS, ENDS), max_size=60)


@dataclass
class Live:
    """Lanes of one partition, one per stage: what they decided and what they wrote, in order."""

    stages: tuple[MiddlewarePipeline, ...]
    decided: list[Decision] = field(default_factory=list)
    written: list[Event] = field(default_factory=list)
    open: list[ResolvedRequest] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    now_ms: int = NOON_MS

    def play(self, steps: list[Ask | End]) -> None:
        for number, step in enumerate(steps):
            match step:
                case Ask():
                    self.ask(f"r{number}", step)
                case End() if self.open:
                    self.end(step)
                case _:
                    pass

    def ask(self, request_id: str, step: Ask) -> None:
        self.now_ms += step.after_ms
        asked = request(request_id, user_id=step.user_id, template=step.template, at_ms=self.now_ms)
        for stage in self.stages:
            decision = stage.decide(context(asked, model=step.model), generation=1)
            self.written.append(decision)
            if not decision.admitted:
                refused = result(asked, status="rejected", model=None)
                refused = refused.model_copy(update={"reason": decision.reason})
                self.write(stage, asked, refused)
                break
        else:
            self.open.append(asked)
            self.models[request_id] = step.model
        self.decided.append(decision)

    def end(self, step: End) -> None:
        asked = self.open.pop(step.pick % len(self.open))
        ended = result(
            asked,
            status="failed" if step.failed else "completed",
            usage=Usage(output_tokens=step.tokens),
            model=self.models[asked.request_id],
        )
        self.write(self.stages[-1], asked, ended)

    def write(self, writer: MiddlewarePipeline, asked: ResolvedRequest, ended: AgentResult) -> None:
        settled = writer.settle(asked, ended)
        for event in (*settled.events, settled.result):
            self.written.append(event)
            for stage in self.stages:
                if stage is writer or type(event) in stage.needs:
                    stage.fold(event)


def fused() -> Live:
    return Live((build_pipeline(POLICY, PRICES),))


def outcomes(decisions: list[Decision]) -> list[tuple[bool, str | None, Reason | None]]:
    return [(each.admitted, each.layer, each.reason) for each in decisions]


def probes(pipeline: MiddlewarePipeline, from_ms: int) -> list[object]:
    """Ask without folding, now and later: what a state would answer is what it is."""
    answers: list[object] = []
    for user_id in ("ada", "bob", "cyd"):
        for after_ms in (-3 * HOUR_MS, -1, 0, 1, 5_000, 20_000, 24 * HOUR_MS):
            asked = request("probe", user_id=user_id, at_ms=from_ms + after_ms)
            for layer in pipeline.layers:
                answer = layer.admit(context(asked))
                answers.append((repr(answer.rejection), answer.reserved_micros))
                if isinstance(layer, CostTrackingMiddleware):
                    answers.append(dataclasses.astuple(layer.spend("default", user_id, from_ms)))
    return answers


@given(steps=HISTORIES)
@settings(deadline=None)
def test_folding_what_was_written_gives_the_state_that_was_live(steps: list[Ask | End]) -> None:
    live = fused()
    live.play(steps)
    restored = build_pipeline(POLICY, PRICES)
    for event in live.written:
        restored.fold(event)
    assert probes(restored, live.now_ms) == probes(live.stages[0], live.now_ms)


@given(steps=HISTORIES)
@settings(deadline=None)
def test_topics_folded_one_after_another_give_the_same_state(steps: list[Ask | End]) -> None:
    live = fused()
    live.play(steps)
    for later in ((CostRecorded, AgentResult), (AgentResult, CostRecorded)):
        restored = build_pipeline(POLICY, PRICES)
        for kind in (Decision, *later):
            for event in live.written:
                if type(event) is kind:
                    restored.fold(event)
        assert probes(restored, live.now_ms) == probes(live.stages[0], live.now_ms)


@given(steps=HISTORIES, before=HISTORIES)
@settings(deadline=None)
def test_a_restored_lane_goes_on_as_if_nothing_had_happened(
    before: list[Ask | End], steps: list[Ask | End]
) -> None:
    live = fused()
    live.play(before)
    restored = dataclasses.replace(
        live,
        stages=fused().stages,
        decided=[],
        written=list(live.written),
        open=list(live.open),
        models=dict(live.models),
    )
    for event in live.written:
        restored.stages[0].fold(event)
    live.decided.clear()
    live.play(steps)
    restored.play(steps)
    assert restored.decided == live.decided


@given(
    steps=HISTORIES,
    cuts=st.sets(st.sampled_from(CUTS)).map(lambda some: tuple(sorted(some, key=CUTS.index))),
)
@settings(deadline=None)
def test_a_cut_chain_decides_as_the_whole_one(
    steps: list[Ask | End], cuts: tuple[str, ...]
) -> None:
    whole = fused()
    staged = Live(build_pipeline(POLICY, PRICES).split(cuts))
    whole.play(steps)
    staged.play(steps)
    assert outcomes(staged.decided) == outcomes(whole.decided)
    restored = build_pipeline(POLICY, PRICES).split(cuts)
    for stage, was in zip(restored, staged.stages, strict=True):
        # Each stage restores from the same topics, which hold every stage's records.
        for event in staged.written:
            stage.fold(event)
        assert probes(stage, staged.now_ms) == probes(was, staged.now_ms)


@given(steps=HISTORIES)
@settings(deadline=None)
def test_what_is_spent_and_reserved_is_never_over_the_cap(steps: list[Ask | End]) -> None:
    """As long as no run costs more than it reserved: 250 tokens may be used, 200 are reserved."""
    bounded = [
        dataclasses.replace(step, tokens=min(step.tokens, 200)) if isinstance(step, End) else step
        for step in steps
    ]
    live = fused()
    live.play(bounded)
    cost = next(each for each in live.stages[0].layers if isinstance(each, CostTrackingMiddleware))
    for users in cost._ledger.days.values():
        for (_, user_id), day in users.items():
            cap_micros = POLICY.rules_for("default", user_id).cap_micros
            taken_micros = day.spent_micros + day.held_micros
            assert cap_micros is None or taken_micros <= cap_micros
            assert day.held_micros == sum(each.held_micros for each in day.open.values())
