"""Caps on a day's spend: reserved before, settled after, never overrun."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from millstream.middleware.base import AttemptUsage, CallQuote, RunAccount
from millstream.middleware.cost import UNPRICED, CostTrackingMiddleware, DaySpend
from millstream.middleware.pipeline import MiddlewarePipeline
from millstream.middleware.policy import Policy
from millstream.middleware.prices import PriceTable
from millstream.schemas.base import CallUsage, Usage
from millstream.schemas.errors import BudgetExceeded, ModelUnpriced, Rejected
from millstream.schemas.events import AttemptStarted, CostRecorded, ResolvedRequest
from millstream.schemas.reasons import reason_of
from millstream.schemas.runs.reservations import NextCall
from tests import making
from tests.making import NOON_MS, context, resolved, result_of, used

DAY_MS = 86_400_000

# A micro per token either way: a context of 100 and 100 tokens reserves 200 micros.
PRICES = "prices: {local: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}\n"
RUN_MICROS = 200


def layer(cap_micros: int | None = None) -> CostTrackingMiddleware:
    spend = "" if cap_micros is None else f"defaults: {{spend: {{micros_per_day: {cap_micros}}}}}"
    policy = Policy.from_yaml(PRICES + spend, "p")
    return CostTrackingMiddleware(policy, PriceTable(policy.prices))


def decide(cost: CostTrackingMiddleware, asked: ResolvedRequest, model: str = "local") -> str:
    decision = MiddlewarePipeline([cost]).decide(context(asked, model=model), generation=1)
    return "admitted" if decision.reason is None else decision.reason.code


def begin(
    cost: CostTrackingMiddleware,
    asked: ResolvedRequest,
    *,
    attempt: int = 1000,
    model: str = "local",
    spent_micros: int = 0,
    reserved_micros: int = 0,
) -> AttemptStarted | Rejected | None:
    standing = RunAccount(reserved_micros=reserved_micros, spent_micros=spent_micros)
    return MiddlewarePipeline([cost]).begin(context(asked, model=model), standing, attempt=attempt)


def marked(cost: CostTrackingMiddleware, *, at_ms: int = NOON_MS) -> AttemptStarted:
    started = begin(cost, resolved(at_ms=at_ms))
    assert isinstance(started, AttemptStarted)
    return started


def spent(attempt: int, micros: int) -> CostRecorded:
    return making.cost(
        session_id="r1",
        at_ms=NOON_MS,
        model="local",
        usage=Usage(output_tokens=micros),
        cost_micros=micros,
        attempt=attempt,
    )


def end(cost: CostTrackingMiddleware, asked: ResolvedRequest, tokens: int = 0) -> None:
    pipeline = MiddlewarePipeline([cost])
    charges = pipeline.charge(asked, used(tokens))
    ended = result_of(asked, usage=Usage(output_tokens=tokens))
    pipeline.fold(ended.model_copy(update={"cost_micros": tokens if charges else 0}))


def test_a_run_is_admitted_as_long_as_its_worst_case_fits_under_the_cap_exactly() -> None:
    cost = layer(cap_micros=2 * RUN_MICROS)
    assert [decide(cost, resolved(request_id=f"r{n}")) for n in range(3)] == [
        "admitted",
        "admitted",
        "budget_exceeded",
    ]


def test_what_a_run_did_not_use_is_free_for_the_next() -> None:
    cost = layer(cap_micros=RUN_MICROS + 50)
    decide(cost, resolved(request_id="r1"))
    assert decide(cost, resolved(request_id="r2")) == "budget_exceeded"
    end(cost, resolved(request_id="r1"), tokens=50)
    assert decide(cost, resolved(request_id="r2")) == "admitted"
    spend = cost.spend("default", "ada", NOON_MS)
    assert (spend.spent_micros, spend.reserved_micros, spend.runs_open) == (50, RUN_MICROS, 1)


def test_a_run_that_failed_without_usage_releases_all_of_its_reservation() -> None:
    cost = layer(cap_micros=RUN_MICROS)
    decide(cost, resolved(request_id="r1"))
    end(cost, resolved(request_id="r1"))
    assert cost.spend("default", "ada", NOON_MS).reserved_micros == 0
    assert decide(cost, resolved(request_id="r2")) == "admitted"


def test_the_refusal_says_cap_spend_and_need() -> None:
    cost = layer(cap_micros=150)
    refused = cost.admit(context(resolved(tenant="acme"))).rejection
    assert isinstance(refused, BudgetExceeded)
    assert "user 'acme/ada' may spend $0.000150 a day (UTC); $0.000000 is spent" in str(refused)
    assert "up to $0.000200, more than a whole day's: raise `spend`" in str(refused)
    assert refused.retry_after_s is None


def test_the_refusal_says_when_the_budget_is_free_again() -> None:
    cost = layer(cap_micros=RUN_MICROS)
    decide(cost, resolved(request_id="r1"))
    cost.fold(spent(1000, 1))
    refused = cost.admit(context(resolved(request_id="r2"))).rejection
    assert isinstance(refused, BudgetExceeded)
    assert "$0.000001 is spent, $0.000199 reserved by runs under way" in str(refused)
    free_at_ms = NOON_MS + 12 * 3_600_000
    free_at = datetime.fromtimestamp(free_at_ms / 1000, UTC)
    assert f"; the budget is free again at {free_at:%Y-%m-%dT00:00:00Z}" in str(refused)
    assert refused.retry_after_s == 12 * 3600
    assert cost.admit(context(resolved(request_id="r3", at_ms=free_at_ms))).rejection is None
    decision = MiddlewarePipeline([cost]).decide(context(resolved(request_id="r4")), generation=1)
    assert decision.reason == reason_of(refused)


def test_a_refusal_for_what_runs_under_way_hold_names_no_time_and_says_what_frees_it() -> None:
    cost = layer(cap_micros=RUN_MICROS)
    decide(cost, resolved(request_id="r1"))
    refused = cost.admit(context(resolved(request_id="r2"))).rejection
    assert isinstance(refused, BudgetExceeded)
    assert "$0.000000 is spent, $0.000200 reserved by runs under way" in str(refused)
    assert str(refused).endswith("what these do not use is free again as they end")
    assert refused.retry_after_s is None
    cost.fold(result_of(resolved(request_id="r1"), status="completed"))
    assert cost.admit(context(resolved(request_id="r2"))).rejection is None


def test_users_and_tenants_have_caps_of_their_own() -> None:
    cost = layer(cap_micros=RUN_MICROS)
    for tenant, user in (("default", "ada"), ("default", "bob"), ("acme", "ada")):
        assert decide(cost, resolved(tenant=tenant, user_id=user)) == "admitted"


def test_a_new_utc_day_has_the_whole_cap() -> None:
    cost = layer(cap_micros=RUN_MICROS)
    midnight_ms = NOON_MS + DAY_MS // 2
    assert decide(cost, resolved(request_id="r1", at_ms=midnight_ms - 1)) == "admitted"
    assert decide(cost, resolved(request_id="r2", at_ms=midnight_ms - 1)) == "budget_exceeded"
    assert decide(cost, resolved(request_id="r3", at_ms=midnight_ms)) == "admitted"


def test_a_run_that_ends_after_midnight_is_paid_by_the_day_it_came_on() -> None:
    cost = layer(cap_micros=RUN_MICROS)
    decide(cost, resolved(request_id="r1"))
    decide(cost, resolved(request_id="r2", at_ms=NOON_MS + DAY_MS))
    end(cost, resolved(request_id="r1"), tokens=120)
    assert cost.spend("default", "ada", NOON_MS).spent_micros == 120
    assert cost.spend("default", "ada", NOON_MS + DAY_MS).spent_micros == 0


def test_days_before_yesterday_are_forgotten_and_late_requests_still_counted() -> None:
    cost = layer(cap_micros=RUN_MICROS)
    for number in range(30):
        decide(cost, resolved(request_id=f"r{number}", at_ms=NOON_MS + number * DAY_MS))
    assert len(cost._ledger.days) == 2
    # Dated long ago: counts on yesterday, which is full.
    assert decide(cost, resolved(request_id="late", at_ms=NOON_MS)) == "budget_exceeded"


def test_a_cost_of_a_forgotten_day_is_not_kept() -> None:
    cost = layer()
    asked = resolved(request_id="old")
    charges = cost.charge(asked, used(5))
    decide(cost, resolved(request_id="new", at_ms=NOON_MS + 2 * DAY_MS))
    for event in charges:
        cost.fold(event)
    assert cost.spend("default", "ada", NOON_MS).spent_micros == 0
    assert len(cost._ledger.days) == 1


def test_a_cost_and_its_result_may_be_folded_in_either_order() -> None:
    asked = resolved(request_id="r1")
    ended = result_of(asked, usage=Usage(output_tokens=70)).model_copy(update={"cost_micros": 70})
    for order in itertools.permutations([*layer().charge(asked, used(70)), ended]):
        cost = layer(cap_micros=1000)
        decide(cost, asked)
        for event in order:
            cost.fold(event)
            spend = cost.spend("default", "ada", NOON_MS)
            assert spend.spent_micros + spend.reserved_micros >= 70
        assert (spend.spent_micros, spend.reserved_micros, spend.runs_open) == (70, 0, 0)


def test_a_run_that_cost_more_than_reserved_counts_in_full() -> None:
    cost = layer(cap_micros=1000)
    decide(cost, resolved(request_id="r1"))
    end(cost, resolved(request_id="r1"), tokens=900)
    assert cost.spend("default", "ada", NOON_MS).spent_micros == 900
    assert decide(cost, resolved(request_id="r2")) == "budget_exceeded"


def test_without_a_cap_a_run_reserves_and_settles_as_under_one_and_none_is_refused() -> None:
    cost = layer()
    for number in range(30):
        assert decide(cost, resolved(request_id=f"r{number}")) == "admitted"
    assert cost.spend("default", "ada", NOON_MS).reserved_micros == 30 * RUN_MICROS
    end(cost, resolved(request_id="r1"), tokens=33)
    spend = cost.spend("default", "ada", NOON_MS)
    assert (spend.spent_micros, spend.reserved_micros) == (33, 29 * RUN_MICROS)


@pytest.mark.parametrize(
    ("model", "cap_micros", "reserved_micros"),
    [("local", RUN_MICROS, RUN_MICROS), ("local", None, RUN_MICROS), ("nobody:knows", None, 0)],
)
def test_an_attempt_that_may_cost_is_marked_with_its_worst_case(
    model: str, cap_micros: int | None, reserved_micros: int
) -> None:
    cost = layer(cap_micros)
    decide(cost, resolved(), model=model)
    started = begin(cost, resolved(), model=model)
    assert isinstance(started, AttemptStarted)
    assert (started.attempt, started.model) == (1000, model)
    assert started.usage_max == Usage(input_tokens=100, output_tokens=100)
    assert started.reserved_micros == reserved_micros


def test_an_attempt_of_a_free_model_has_no_mark_unless_it_has_effects() -> None:
    cost, asked = layer(), resolved()
    assert begin(cost, asked, model="scripted") is None
    harmful = dataclasses.replace(context(asked, model="scripted"), has_effects=True)
    started = MiddlewarePipeline([cost]).begin(harmful, RunAccount(), attempt=1000)
    assert isinstance(started, AttemptStarted)
    assert (started.reserved_micros, started.price_digest) == (0, "")


def test_the_first_attempt_takes_over_what_the_decision_reserved() -> None:
    cost = layer(cap_micros=RUN_MICROS)
    decide(cost, resolved())
    assert isinstance(begin(cost, resolved()), AttemptStarted)
    assert cost.spend("default", "ada", NOON_MS).reserved_micros == RUN_MICROS


def test_a_further_attempt_needs_room_under_the_cap_for_its_worst_case() -> None:
    for cap_micros, fits in ((2 * RUN_MICROS, True), (2 * RUN_MICROS - 1, False)):
        cost = layer(cap_micros)
        decide(cost, resolved())
        begin(cost, resolved())
        cost.fold(spent(1000, RUN_MICROS))
        answer = begin(cost, resolved(), attempt=1001, spent_micros=RUN_MICROS)
        assert isinstance(answer, AttemptStarted if fits else BudgetExceeded)
        day = cost.spend("default", "ada", NOON_MS)
        assert day.spent_micros == RUN_MICROS
        assert day.reserved_micros == (RUN_MICROS if fits else 0)
    assert "its earlier ones count at $0.000200" in str(answer)


def test_a_free_run_holds_nothing_until_a_later_model_has_a_price() -> None:
    # litellm's issue 41344, pull request 41379.
    asked = resolved()
    free = dataclasses.replace(context(asked, model="scripted"), models_after=("local",))
    for cap_micros, may_follow in ((None, True), (0, False), (1_000, True)):
        cost = layer(cap_micros)
        pipeline = MiddlewarePipeline([cost])
        decision = pipeline.decide(free, generation=1)
        assert (decision.admitted, decision.reserved_micros) == (True, 0)
        standing = RunAccount()
        assert pipeline.begin(free, standing, attempt=1000) is None
        begun = pipeline.begin(context(asked), standing, attempt=1001)
        assert isinstance(begun, AttemptStarted if may_follow else BudgetExceeded)
        held_micros = cost.spend("default", "ada", NOON_MS).reserved_micros
        assert held_micros == (RUN_MICROS if may_follow else 0)
        end(cost, asked)
        assert cost.spend("default", "ada", NOON_MS) == DaySpend(0, 0, 0)


def test_runs_that_were_free_as_they_came_share_the_cap_once_they_have_a_price() -> None:
    cost = layer(cap_micros=RUN_MICROS)
    pipeline = MiddlewarePipeline([cost])
    for one in ("r1", "r2"):
        pipeline.decide(context(resolved(request_id=one), model="scripted"), generation=1)
    begun = [begin(cost, resolved(request_id=one)) for one in ("r1", "r2")]
    assert [type(one) for one in begun] == [AttemptStarted, BudgetExceeded]
    assert cost.spend("default", "ada", NOON_MS) == DaySpend(0, RUN_MICROS, 2)


def test_nothing_is_kept_of_who_ran_what_is_free() -> None:
    cost = layer(cap_micros=None)
    for number in range(10):
        asked = resolved(request_id=f"r{number}", user_id=f"user-{number}")
        MiddlewarePipeline([cost]).decide(context(asked, model="scripted"), generation=1)
        end(cost, asked)
    assert cost.state()["users"] == []


@pytest.mark.parametrize(("spent_micros", "fits"), [(0, True), (RUN_MICROS, True), (801, False)])
def test_a_run_whose_day_is_forgotten_is_held_to_the_cap_by_itself(
    spent_micros: int, *, fits: bool
) -> None:
    cost = layer(cap_micros=1_000)
    asked = resolved()
    decide(cost, asked)
    decide(cost, resolved(request_id="r2", at_ms=NOON_MS + 4 * DAY_MS))
    standing = RunAccount(reserved_micros=RUN_MICROS, spent_micros=spent_micros)
    by_calls = dataclasses.replace(context(asked), first_call=Usage(output_tokens=RUN_MICROS))
    begun = MiddlewarePipeline([cost]).begin(by_calls, standing, attempt=2000)
    assert isinstance(begun, AttemptStarted if fits else BudgetExceeded)
    if isinstance(begun, AttemptStarted):
        left_micros = 1_000 - spent_micros
        for tokens, may in ((left_micros, True), (left_micros + 1, False)):
            call = NextCall(Usage(output_tokens=tokens))
            quote = MiddlewarePipeline([cost]).reserve(by_calls, begun, call)
            assert isinstance(quote, CallQuote if may else BudgetExceeded)


def test_where_spend_is_not_known_a_further_attempt_must_do_with_what_its_run_reserved() -> None:
    elsewhere = layer(cap_micros=10 * RUN_MICROS)
    for spent_micros, fits in ((0, True), (1, False)):
        answer = begin(elsewhere, resolved(), spent_micros=spent_micros, reserved_micros=RUN_MICROS)
        assert isinstance(answer, AttemptStarted if fits else BudgetExceeded)


def test_an_attempt_that_is_folded_after_its_runs_end_holds_nothing() -> None:
    cost = layer(cap_micros=1000)
    decide(cost, resolved())
    started = begin(layer(), resolved())
    end(cost, resolved(), tokens=50)
    assert isinstance(started, AttemptStarted)
    cost.fold(started)
    assert cost.spend("default", "ada", NOON_MS) == DaySpend(50, 0, 0)


def test_a_decision_of_a_stage_without_this_layer_reserves_nothing() -> None:
    cost = layer(cap_micros=RUN_MICROS)
    decision = MiddlewarePipeline([layer(RUN_MICROS)]).decide(context(resolved()), generation=1)
    cost.fold(decision.model_copy(update={"passed": ("rate_limit",)}))
    assert cost.spend("default", "ada", NOON_MS).reserved_micros == 0


def test_a_model_without_a_price_is_refused_under_a_cap_with_the_remedy() -> None:
    refused = layer(cap_micros=10**9).admit(context(resolved(), model="ollama:llama3")).rejection
    assert isinstance(refused, ModelUnpriced)
    assert "prices: {'ollama:llama3': {input_usd_per_mtok" in str(refused)


def test_a_model_without_a_price_is_recorded_as_unpriced_without_a_cap() -> None:
    cost = layer()
    asked = resolved()
    assert decide(cost, asked, model="ollama:llama3") == "admitted"
    with capture_logs() as lines:
        (event,) = cost.charge(asked, used(5, model="ollama:llama3"))
    assert isinstance(event, CostRecorded)
    assert (event.cost_micros, event.price_digest) == (0, UNPRICED)
    assert [line["event"] for line in lines] == ["model has no known price"]


def test_the_cost_record_carries_the_time_of_the_request_and_the_digest_of_the_prices() -> None:
    cost = layer()
    asked = resolved(tenant="acme")
    (event,) = cost.charge(asked, used(7))
    assert isinstance(event, CostRecorded)
    assert (event.cost_micros, event.estimated) == (7, False)
    assert (event.at_ms, event.tenant, event.partition_key) == (NOON_MS, "acme", "acme/ada")
    assert event.price_digest == cost._prices.digest


def test_an_attempt_that_used_nothing_makes_a_cost_record_only_if_it_was_marked() -> None:
    cost, asked = layer(), resolved()
    assert cost.charge(asked, used(0)) == ()
    (event,) = cost.charge(asked, used(0, started=marked(cost)))
    assert isinstance(event, CostRecorded)
    assert (event.attempt, event.cost_micros, event.estimated) == (1000, 0, False)


@pytest.mark.parametrize(("tokens", "counted"), [(0, RUN_MICROS), (30, RUN_MICROS), (150, 250)])
def test_an_attempt_that_did_not_report_all_it_used_counts_at_its_worst_case(
    tokens: int, counted: int
) -> None:
    cost = layer()
    (event,) = cost.charge(resolved(), used(tokens, known=False, started=marked(cost)))
    assert isinstance(event, CostRecorded)
    assert event.estimated
    assert event.cost_micros == counted
    assert event.usage == Usage(input_tokens=100, output_tokens=counted - 100)


def test_what_was_estimated_from_what_was_sent_is_not_charged_at_the_worst_case() -> None:
    cost = layer()
    call = CallUsage(Usage(output_tokens=30), estimate_reason="nothing was reported")
    told = dataclasses.replace(used(30, started=marked(cost)), calls=(call,))
    (event,) = cost.charge(resolved(), told)
    assert isinstance(event, CostRecorded)
    assert (event.usage, event.cost_micros) == (Usage(output_tokens=30), 30)
    assert (event.estimated, event.estimate_reason) == (True, "nothing was reported")


def test_a_lost_attempt_is_charged_by_its_mark_alone_on_the_day_of_its_request() -> None:
    started = marked(layer(), at_ms=NOON_MS - DAY_MS)
    # The prices may be others by now: what was reserved is what counts.
    cheap = CostTrackingMiddleware(Policy(), PriceTable())
    (event,) = cheap.charge(started, AttemptUsage.lost(started))
    assert isinstance(event, CostRecorded)
    assert (event.at_ms, event.request_id, event.attempt) == (NOON_MS - DAY_MS, "r1", 1000)
    assert (event.cost_micros, event.usage) == (RUN_MICROS, started.usage_max)
    assert event.estimated


def test_a_free_attempt_that_was_cut_off_costs_what_it_said() -> None:
    assert layer().charge(resolved(), used(0, model="scripted", known=False)) == ()


@pytest.mark.parametrize(("text", "read"), [("", 1024), ("é" * 10, 1044)])
def test_an_unknown_input_is_reserved_at_a_token_for_each_byte(text: str, read: int) -> None:
    seen = context(resolved(text=text))
    unknown = type(seen)(seen.request, seen.now_ms, seen.model, output_tokens_max=100)
    assert layer(cap_micros=10**6).admit(unknown).reserved_micros == read + 100


def test_models_that_are_called_beside_the_agents_own_are_reserved_at_the_dearest_price() -> None:
    policy = Policy.from_yaml(
        """
        prices:
          local: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}
          dear: {input_usd_per_mtok: 10, output_usd_per_mtok: 10}
          free: {input_usd_per_mtok: 0, output_usd_per_mtok: 0}
        defaults: {spend: {micros_per_day: 1000000}}
        """,
        "p",
    )
    cost = CostTrackingMiddleware(policy, PriceTable(policy.prices))

    def reserved(model: str, *beside: str) -> int:
        asked = dataclasses.replace(context(resolved(), model=model), models_beside=beside)
        return cost.admit(asked).reserved_micros

    assert reserved("local") == RUN_MICROS
    assert reserved("local", "free") == RUN_MICROS
    assert reserved("local", "dear") == reserved("free", "dear") == 10 * RUN_MICROS
    assert reserved("free", "free") == 0
    unpriced = dataclasses.replace(context(resolved()), models_beside=("ollama:llama3",))
    refused = cost.admit(unpriced).rejection
    assert isinstance(refused, ModelUnpriced)
    assert "model 'ollama:llama3' has no known price" in str(refused)


def test_a_call_of_a_model_without_a_price_is_refused_under_a_cap_and_free_without() -> None:
    most = Usage(input_tokens=10, output_tokens=10)
    asked = dataclasses.replace(context(resolved()), first_call=most)
    for cap_micros, gives in ((1_000, ModelUnpriced), (None, CallQuote)):
        pipeline = MiddlewarePipeline([layer(cap_micros)])
        pipeline.decide(asked, generation=1)
        started = pipeline.begin(asked, RunAccount(), attempt=1)
        assert isinstance(started, AttemptStarted)
        answer = pipeline.reserve(asked, started, NextCall(most, "nobody:knows"))
        assert isinstance(answer, gives)


def test_calls_that_are_under_way_side_by_side_are_held_together() -> None:
    most = Usage(input_tokens=10, output_tokens=10)
    asked = dataclasses.replace(context(resolved()), first_call=most)
    pipeline = MiddlewarePipeline([layer(50)])
    pipeline.decide(asked, generation=1)
    started = pipeline.begin(asked, RunAccount(), attempt=1)
    assert isinstance(started, AttemptStarted)
    beside = tuple(CallUsage(most) for _ in range(2))
    quotes = [
        pipeline.reserve(asked, started, NextCall(most, beside=beside[:count]))
        for count in range(3)
    ]
    assert [one.reserved_micros for one in quotes if isinstance(one, CallQuote)] == [20, 40]
    assert isinstance(quotes[2], BudgetExceeded)
