"""The chain: its order, its decisions, its stages."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from millstream.middleware.base import (
    AgentMiddleware,
    AttemptQuote,
    MiddlewareContext,
    MiddlewareResult,
    RunAccount,
    Settlement,
)
from millstream.middleware.pipeline import MiddlewarePipeline, build_pipeline
from millstream.middleware.policy import Policy
from millstream.schemas.any_event import any_event
from millstream.schemas.base import Event, Usage
from millstream.schemas.errors import Forbidden, LayerFailed, Misconfigured, RateLimited, Rejected
from millstream.schemas.events import (
    AgentResult,
    AttemptStarted,
    CostRecorded,
    Decision,
    ResolvedRequest,
)
from millstream.schemas.runs.reservations import CallReserved
from tests.making import context, resolved, result_of, used


class Layer(AgentMiddleware):
    """Notes what it is asked."""

    folds: ClassVar[frozenset[type[Event]]] = frozenset({Decision})

    def __init__(
        self, name: str, priority: int, answer: MiddlewareResult | None = None, *, on: bool = True
    ) -> None:
        super().__init__(enabled=on)
        self.name = name  # type: ignore[misc]
        self.priority = priority  # type: ignore[misc]
        self.answer = answer or MiddlewareResult()
        self.folded: list[Event] = []
        self.heard: list[Decision] = []

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:  # noqa: ARG002
        return self.answer

    def decided(self, context: MiddlewareContext, decision: Decision) -> None:  # noqa: ARG002
        self.heard.append(decision)

    def settle(self, request: ResolvedRequest, result: AgentResult) -> Settlement:  # noqa: ARG002
        changed = result.model_copy(update={"output": f"{result.output or ''}{self.name}"})
        return Settlement(changed)

    def fold(self, event: Event) -> None:
        self.folded.append(event)


def test_layers_are_ordered_by_priority_then_name() -> None:
    pipeline = MiddlewarePipeline([Layer("b", 2), Layer("c", 1), Layer("a", 2)])
    assert pipeline.names == ("c", "a", "b")


def test_the_four_layers_stand_in_their_order() -> None:
    assert build_pipeline().names == ("auth", "logging", "cost", "rate_limit")


def test_the_first_rejection_wins_and_nothing_is_reserved() -> None:
    reserving = Layer("a", 1, MiddlewareResult(reserved_micros=5))
    refusing = Layer("b", 2, MiddlewareResult(RateLimited("slow down", retry_after_s=2.5)))
    last = Layer("c", 3, MiddlewareResult(Forbidden("never asked")))
    pipeline = MiddlewarePipeline([last, refusing, reserving])
    decision = pipeline.decide(context(resolved()), generation=4)
    assert (decision.admitted, decision.layer, decision.passed) == (False, "b", ("a",))
    assert decision.reserved_micros == 0
    assert decision.reason is not None
    assert (decision.reason.code, decision.reason.retry_after_s) == ("rate_limited", 2.5)
    assert reserving.folded == refusing.folded == last.folded == last.heard == [decision]


def test_an_admission_sums_what_was_reserved() -> None:
    pipeline = MiddlewarePipeline(
        [Layer(name, 1, MiddlewareResult(reserved_micros=5)) for name in ("a", "b")]
    )
    decision = pipeline.decide(context(resolved()), generation=1)
    assert (decision.admitted, decision.passed, decision.reserved_micros) == (True, ("a", "b"), 10)


def test_a_disabled_layer_is_passed_over_and_still_folds() -> None:
    off = Layer("off", 1, MiddlewareResult(Forbidden("no")), on=False)
    pipeline = MiddlewarePipeline([off, Layer("on", 2)])
    decision = pipeline.decide(context(resolved()), generation=1)
    assert (decision.admitted, decision.passed) == (True, ("on",))
    assert off.folded == [decision]
    assert off.heard == []
    assert pipeline.settle(resolved(), result_of(resolved())).result.output == "on"
    off.enabled = True
    assert pipeline.decide(context(resolved()), generation=1).layer == "off"


def test_a_decision_is_a_valid_event_and_survives_the_wire() -> None:
    pipeline = build_pipeline(Policy.from_yaml("users: {ada: {roles: []}}", "p"))
    for user in ("ada", "bob"):
        decision = pipeline.decide(context(resolved(user_id=user)), generation=1)
        assert any_event.validate_json(decision.model_dump_json()) == decision


def test_the_result_goes_back_through_the_chain_last_layer_first() -> None:
    pipeline = MiddlewarePipeline([Layer("a", 1), Layer("b", 2)])
    assert pipeline.settle(resolved(), result_of(resolved())).result.output == "ba"


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ZeroDivisionError("by zero"), "the layer 'x' failed: ZeroDivisionError: by zero"),
        (SystemExit(1), "the layer 'x' failed: SystemExit: 1"),
        (asyncio.CancelledError(), "the layer 'x' failed: CancelledError"),
        (None, "the layer 'x' gave NoneType, not MiddlewareResult"),
    ],
)
def test_a_layer_that_raises_or_answers_nothing_rejects_the_request(
    raised: BaseException | None, told: str
) -> None:
    class Broken(Layer):
        def admit(self, context: MiddlewareContext) -> MiddlewareResult:  # noqa: ARG002
            if raised is not None:
                raise raised
            return None  # type: ignore[return-value]

    after = Layer("y", 20)
    pipeline = MiddlewarePipeline([Broken("x", 10), after])
    decision = pipeline.decide(context(resolved()), generation=1)
    assert not decision.admitted
    assert decision.layer == "x"
    assert decision.reason is not None
    assert (decision.reason.code, decision.reason.message) == ("layer_failed", told)
    assert after.folded == [decision]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (MiddlewareResult("no"), "rejected with str, not with a Rejected"),  # type: ignore[arg-type]
        (MiddlewareResult(ValueError("no")), "rejected with ValueError"),  # type: ignore[arg-type]
        (MiddlewareResult(Forbidden), "rejected with"),  # type: ignore[arg-type]
        (MiddlewareResult(None, "5"), "reserved '5', not micros"),  # type: ignore[arg-type]
        (MiddlewareResult(RateLimited("w", retry_after_s="soon")), "no record can hold"),  # type: ignore[arg-type]
    ],
)
def test_an_answer_that_no_record_could_hold_rejects_the_request(
    answer: MiddlewareResult, told: str
) -> None:
    """Else the lane fails at it, and whoever takes over fails at it too."""
    pipeline = MiddlewarePipeline([Layer("x", 10, answer)])
    decision = pipeline.decide(context(resolved()), generation=1)
    assert decision.reason is not None
    assert decision.reason.code == "layer_failed"
    assert told in decision.reason.message
    assert any_event.validate_json(decision.model_dump_json()) == decision


@pytest.mark.parametrize("words", ["x" * 5_000_000, "half a character: \ud800"])
def test_a_reason_of_any_text_is_brought_to_what_a_record_holds(words: str) -> None:
    pipeline = MiddlewarePipeline([Layer("x", 10, MiddlewareResult(Forbidden(words)))])
    decision = pipeline.decide(context(resolved()), generation=1)
    assert decision.reason is not None
    assert decision.reason.code == "forbidden"
    assert decision.reason.message[:4] == words[:4]
    assert len(decision.model_dump_json().encode()) < 2_000


@pytest.mark.parametrize(
    "changed",
    [
        {"output": 3},
        {"output": "\ud800"},
        {"status": "fine"},
        {"structured": {"a": object()}},
        {"request_id": "other"},
        {"user_id": "other"},
        None,
    ],
)
def test_a_layer_that_makes_a_result_no_record_could_hold_changes_nothing(
    changed: dict[str, Any] | None,
) -> None:
    class Settles(Layer):
        def settle(self, request: ResolvedRequest, result: AgentResult) -> Settlement:  # noqa: ARG002
            made = None if changed is None else result.model_copy(update=changed)
            return Settlement(made)  # type: ignore[arg-type]

    before = result_of(resolved())
    assert MiddlewarePipeline([Settles("x", 10)]).settle(resolved(), before).result is before


def test_a_layer_adds_no_second_result() -> None:
    class Doubles(Layer):
        def settle(self, request: ResolvedRequest, result: AgentResult) -> Settlement:  # noqa: ARG002
            return Settlement(result, (result,))

    assert (
        MiddlewarePipeline([Doubles("x", 10)]).settle(resolved(), result_of(resolved())).events
        == ()
    )


def test_what_is_no_event_is_not_taken_from_a_layer() -> None:
    class Junk(Layer):
        def settle(self, request: ResolvedRequest, result: AgentResult) -> Settlement:  # noqa: ARG002
            return Settlement(result, ("junk",))  # type: ignore[arg-type]

        def charge(self, request: object, used: object) -> tuple[Event, ...]:  # noqa: ARG002
            return ("junk",)  # type: ignore[return-value]

    pipeline = MiddlewarePipeline([Junk("x", 10)])
    assert pipeline.settle(resolved(), result_of(resolved())).events == ()
    assert pipeline.charge(resolved(), used(1)) == []


def test_a_layer_that_writes_to_the_metadata_rejects_the_request_and_no_record_holds_it() -> None:
    class Writes(Layer):
        def admit(self, context: MiddlewareContext) -> MiddlewareResult:
            context.request.metadata["seen"] = 1  # type: ignore[assignment]
            return MiddlewareResult()

    request = resolved()
    decision = MiddlewarePipeline([Writes("x", 10)]).decide(context(request), generation=1)
    assert decision.reason is not None
    assert decision.reason.code == "layer_failed"
    assert request.metadata == {}


def test_a_layer_that_raises_later_on_changes_nothing_for_the_others() -> None:
    class Broken(Layer):
        def decided(self, *_: object) -> None:
            raise ZeroDivisionError

        def fold(self, _event: Event) -> None:
            raise ZeroDivisionError

        def charge(self, *_: object) -> tuple[Event, ...]:
            raise ZeroDivisionError

        def settle(self, *_: object) -> Settlement:
            raise ZeroDivisionError

    other = Layer("y", 20)
    pipeline = MiddlewarePipeline([Broken("x", 10), other])
    decision = pipeline.decide(context(resolved()), generation=1)
    assert decision.admitted
    assert (other.folded, other.heard) == ([decision], [decision])
    asked = resolved("hi")
    assert pipeline.charge(asked, used(1)) == []
    assert pipeline.settle(asked, result_of(asked, output="o")).result.output == "oy"


def test_a_layer_that_raises_as_an_attempt_begins_refuses_it() -> None:
    class Broken(Layer):
        def begin(self, *_: object) -> AttemptQuote | Rejected | None:
            raise ZeroDivisionError

    pipeline = MiddlewarePipeline([Broken("x", 10)])
    refusal = pipeline.begin(context(resolved()), RunAccount(), attempt=1000)
    assert isinstance(refusal, LayerFailed)


def test_two_layers_of_one_name_are_refused() -> None:
    with pytest.raises(Misconfigured, match="'a' is taken"):
        MiddlewarePipeline([Layer("a", 1), Layer("a", 2)])
    with pytest.raises(Misconfigured, match="'executor' is taken"):
        MiddlewarePipeline([Layer("executor", 1)])


def test_a_chain_without_layers_admits() -> None:
    assert MiddlewarePipeline([]).decide(context(resolved()), generation=1).admitted


def test_without_cuts_there_is_one_stage() -> None:
    (stage,) = build_pipeline().split(())
    assert stage.names == ("auth", "logging", "cost", "rate_limit")
    assert stage.runs_executor
    assert stage.needs == frozenset()


def test_stages_hold_the_layers_between_cuts_and_the_last_runs_the_executor() -> None:
    stages = build_pipeline().split(("cost", "rate_limit", "executor"))
    assert [stage.names for stage in stages] == [
        ("auth", "logging"),
        ("cost",),
        ("rate_limit",),
        (),
    ]
    assert [stage.runs_executor for stage in stages] == [False, False, False, True]


def test_only_a_stage_with_the_cost_layer_and_no_executor_needs_to_be_fed() -> None:
    feed = frozenset({AttemptStarted, CallReserved, CostRecorded, AgentResult})
    stages = build_pipeline().split(("cost", "rate_limit", "executor"))
    assert [stage.needs for stage in stages] == [frozenset(), feed, frozenset(), frozenset()]


def test_every_stage_charges_for_an_attempt_as_the_whole_chain_does() -> None:
    whole = build_pipeline(
        Policy.from_yaml("prices: {local: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}", "p")
    )
    (cost,) = charges = whole.charge(resolved(), used(5))
    assert isinstance(cost, CostRecorded)
    assert cost.cost_micros == 5
    for stage in whole.split(("cost", "executor")):
        assert stage.charge(resolved(), used(5)) == charges


def test_an_attempt_may_begin_once_no_layer_refuses_it() -> None:
    class Priced(Layer):
        def begin(
            self,
            context: MiddlewareContext,  # noqa: ARG002
            standing: RunAccount,  # noqa: ARG002
        ) -> AttemptQuote | Rejected | None:
            return AttemptQuote(Usage(output_tokens=3), 3, "d")

    class Strict(Layer):
        def begin(
            self,
            context: MiddlewareContext,  # noqa: ARG002
            standing: RunAccount,  # noqa: ARG002
        ) -> AttemptQuote | Rejected | None:
            return Forbidden("not again")

    asked, standing = context(resolved()), RunAccount(spent_micros=4)
    priced, strict = Priced("a", 1), Strict("b", 2, on=False)
    pipeline = MiddlewarePipeline([priced, strict])
    started = pipeline.begin(asked, standing, attempt=1001)
    assert isinstance(started, AttemptStarted)
    assert (started.attempt, started.reserved_micros, started.spent_micros) == (1001, 3, 4)
    strict.enabled = True
    assert isinstance(pipeline.begin(asked, standing, attempt=1002), Forbidden)
    assert MiddlewarePipeline([Layer("a", 1)]).begin(asked, standing, attempt=1000) is None


@pytest.mark.parametrize(
    ("cuts", "words"),
    [
        (("csot",), r"no layer 'csot'; did you mean 'cost'\? \(the chain is auth, logging, cost"),
        (("executor", "cost"), "in the chain's order: auth, logging, cost, rate_limit, executor"),
        (("cost", "cost"), "write each cut once"),
        (("auth",), "nothing comes before 'auth'"),
    ],
)
def test_a_wrong_cut_is_told(cuts: tuple[str, ...], words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        build_pipeline().split(cuts)


def test_history_reaches_as_far_as_the_layer_that_needs_most() -> None:
    assert build_pipeline().history_ms == 2 * 86_400_000
    assert MiddlewarePipeline([]).history_ms == 0
