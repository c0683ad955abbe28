"""What runs cost: reserved before each attempt, settled after it, capped per user and UTC day."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import structlog

from millstream.middleware.base import (
    GO_ON,
    AgentMiddleware,
    AttemptQuote,
    AttemptUsage,
    CallQuote,
    MiddlewareContext,
    MiddlewareResult,
    RunAccount,
)
from millstream.middleware.policy import Policy
from millstream.middleware.prices import PriceTable, Rates, rounded_up
from millstream.middleware.spend.ledger import (
    DAY_MS,
    DAYS_KEPT,
    DayAccount,
    Reservation,
    SpendLedger,
)
from millstream.middleware.spend.refusals import exceeded, may_spend, model_unpriced, usd, what_runs
from millstream.schemas.base import CallUsage, Event, Micros, Usage, saturated
from millstream.schemas.errors import ModelUnpriced, Rejected
from millstream.schemas.events import (
    UNPRICED,
    AgentResult,
    AttemptStarted,
    CostRecorded,
    Decision,
    ResolvedRequest,
)
from millstream.schemas.runs.call_usage import OTHERS, grouped
from millstream.schemas.runs.reservations import CallReserved, NextCall

PROMPT_TOKENS_MAX = 1024
"""Taken for a template's own words and the chat's framing where nobody says what a run may read."""

UNKNOWN_MODEL = "unknown"

REASON_CHARS_MAX = 500

UNKNOWN_USE = "it is not known what its attempt used: the most that was reserved for it"


@dataclass(frozen=True, slots=True)
class DaySpend:
    """What a user's runs of one day have cost, and what open ones may still cost, in micros."""

    spent_micros: Micros
    reserved_micros: Micros
    runs_open: int


class CostTrackingMiddleware(AgentMiddleware):
    """Reserves what a run's next call may cost, under a cap if there is one; records what it used.

    Admits if spent + reserved + the worst case of this run's first call is at most the cap; else
    `BudgetExceeded`, which says when the next day begins. Each further call is reserved by itself,
    before it is made: one that does not fit ends its run. In a cut chain, where the calls are made
    in another stage, a run's decision reserves for all of its calls.
    Without a cap the same is reserved, and nothing refused.
    The worst case is all tokens that may be read and written, at the model's dearest price, be it
    that of the tokens written to its cache or of audio; where nobody knows how many are read, a
    token for each byte of the input and 1,024 for the rest of the prompt. What models cost that
    tools call is not in it, since nobody knows: it is charged at their own prices, and counts once
    it is known.

    A model without a known price is admitted for users without a cap; its usage is recorded at 0
    with the price digest `unpriced`. Under a cap it is `ModelUnpriced`, since nothing could hold
    it; the reason names the price to set. `local` and `scripted` cost nothing unless the policy
    says so.

    Memory: two days of the users who spent or reserved in them, and the runs that are open.
    """

    name = "cost"
    priority = 30
    folds = frozenset({Decision, AttemptStarted, CallReserved, CostRecorded, AgentResult})

    def __init__(self, policy: Policy, prices: PriceTable, *, enabled: bool = True) -> None:
        super().__init__(enabled=enabled)
        self._policy = policy
        self._prices = prices
        self._log = structlog.get_logger("millstream.cost").bind()
        self._ledger = SpendLedger()

    @property
    def history_ms(self) -> int:
        """The days kept."""
        return DAYS_KEPT * DAY_MS

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:
        """Reserve the run's worst case if it fits under the cap."""
        quote = self._quote(context)
        if quote is None:
            return GO_ON
        if isinstance(quote, ModelUnpriced):
            return MiddlewareResult(quote)
        request, needed_micros = context.request, quote.reserved_micros
        cap_micros = self._cap_micros(request)
        user = (request.tenant, request.user_id)
        day = self._ledger.account(user, context.now_ms)
        if cap_micros is None or day.taken_micros + needed_micros <= cap_micros:
            return MiddlewareResult(reserved_micros=needed_micros)
        return MiddlewareResult(
            exceeded(
                f"{may_spend(request, cap_micros)}; {usd(day.spent_micros)} is spent, "
                f"{usd(day.held_micros)} reserved by runs under way, and {what_runs(context)} may "
                f"cost up to {usd(needed_micros)}",
                context,
                fits_another_day=needed_micros <= cap_micros,
                fits_without_others=day.spent_micros + needed_micros <= cap_micros,
            )
        )

    def begin(
        self, context: MiddlewareContext, standing: RunAccount
    ) -> AttemptQuote | Rejected | None:
        """Let an attempt begin if its worst case is reserved, or can be reserved under the cap.

        A run that goes on once its day is not kept any more is held to the cap by itself. In a cut
        chain the stage that runs agents knows no spend: there a further attempt must do with what
        is left of its run's reservation, so that the cap holds all the same.
        """
        quote = self._quote(context)
        if not isinstance(quote, AttemptQuote):
            return quote
        request, needed_micros = context.request, quote.reserved_micros
        cap_micros = self._cap_micros(request)
        user = (request.tenant, request.user_id)
        found = self._ledger.find(user, request.request_id)
        if found is None and context.first_call is None:
            left_micros = standing.reserved_micros - standing.spent_micros
            fits = needed_micros <= left_micros
        else:
            held_micros = 0 if found is None else found[1].held_micros
            day = self._ledger.account_of_day(user, context.now_ms) if found is None else found[0]
            taken_micros = max(day.taken_micros - held_micros, standing.spent_micros)
            fits = needed_micros <= held_micros or taken_micros + needed_micros <= (cap_micros or 0)
        if cap_micros is None or fits:
            return quote
        return exceeded(
            f"{may_spend(request, cap_micros)}, and another attempt of this run may cost up to "
            f"{usd(needed_micros)}; its earlier ones count at {usd(standing.spent_micros)}, each "
            "that did not report what it used at its worst case",
            context,
            fits_another_day=needed_micros <= cap_micros,
        )

    def reserve(
        self, context: MiddlewareContext, started: AttemptStarted, call: NextCall
    ) -> CallQuote | Rejected | None:
        """Let a further call be made if its worst case fits under the cap, beside what was used.

        A model without a known price counts at 0, as it is charged; under a cap it is refused.
        """
        request = context.request
        user = (request.tenant, request.user_id)
        day, reservation = self._ledger.find(user, request.request_id) or (
            self._ledger.account_of_day(user, context.now_ms),
            Reservation(0, settled_micros=started.spent_micros),
        )
        cap_micros = self._cap_micros(request)
        model = call.model or started.model
        if cap_micros is not None and self._prices.rates(model, started.at_ms) is None:
            return model_unpriced(model)
        used = sum(self._nanos(one, started) for one in call.over)
        made_micros = saturated(started.spent_micros + rounded_up(used))
        asks_micros = sum(
            self._worst_micros(one, started)
            for one in (CallUsage(call.usage_max, call.model), *call.beside)
        )
        needed_micros = saturated(made_micros + asks_micros)
        spent_micros = max(0, day.spent_micros - reservation.settled_micros)
        held_micros = day.held_micros - reservation.held_micros
        fits = cap_micros is None or spent_micros + held_micros + needed_micros <= cap_micros
        if cap_micros is None or fits or needed_micros <= reservation.micros:
            return CallQuote(
                needed_micros,
                self._prices.digest,
                reservation.micros,
                is_wanted=cap_micros is not None and needed_micros < reservation.micros // 2,
            )
        return exceeded(
            f"{may_spend(request, cap_micros)}; others of the user's runs have spent "
            f"{usd(spent_micros)} and reserved {usd(held_micros)}, this one has spent "
            f"{usd(made_micros)}, and its next model call may cost up to {usd(asks_micros)}",
            context,
            fits_another_day=needed_micros <= cap_micros,
            fits_without_others=spent_micros + needed_micros <= cap_micros,
        )

    def _nanos(self, one: CallUsage, started: AttemptStarted) -> int:
        rates = self._prices.rates(one.model or started.model, started.at_ms)
        return 0 if rates is None else rates.nanos(one.usage)

    def _worst_micros(self, one: CallUsage, started: AttemptStarted) -> Micros:
        rates = self._prices.rates(one.model or started.model, started.at_ms)
        return 0 if rates is None else rates.worst_micros(one.usage, one.calls)

    def charge(
        self, request: ResolvedRequest | AttemptStarted, used: AttemptUsage
    ) -> tuple[Event, ...]:
        """Price what an attempt used: a `CostRecorded` for each of its model calls.

        One that was marked and made none has one all the same; one that was not marked and used
        nothing has none. Each call is priced by itself and under its own model's name: prices step
        by the tokens of one call. Where nothing is known of an attempt it is taken to be the worst
        case, since the cap must hold although the provider may ask for all of it; that, and what
        was estimated from what was sent and received, is `estimated`.
        """
        started = used.started
        if started is None and used.usage.is_none:
            return ()
        model = used.model or request.model or UNKNOWN_MODEL
        if started is not None and not used.usage_known:
            calls: tuple[CallUsage, ...] = (
                CallUsage(_at_least(used.usage, started.usage_max), None, UNKNOWN_USE, calls=0),
            )
            return self._priced(request, used, model, calls, is_worst_case=True)
        calls = used.calls
        if not calls or reduce(add, (one.usage for one in calls)) != used.usage:
            calls = (CallUsage(used.usage, calls=0),)
        return self._priced(request, used, model, calls)

    def _priced(
        self,
        request: ResolvedRequest | AttemptStarted,
        used: AttemptUsage,
        model: str,
        calls: tuple[CallUsage, ...],
        *,
        is_worst_case: bool = False,
    ) -> tuple[CostRecorded, ...]:
        table = {one.model: self._rates(one.model or model, request) for one in calls}
        at_least_micros = used.started.reserved_micros if is_worst_case and used.started else 0
        made: list[CostRecorded] = []
        nanos, before_micros = 0, 0
        for group in grouped(calls):
            name = group[0].model or model if len({one.model for one in group}) == 1 else OTHERS
            rates = table[group[0].model]
            nanos += sum(
                rate.nanos(one.usage) for one in group if (rate := table[one.model]) is not None
            )
            # Rounded up once for all: what comes before is taken off.
            micros = max(rounded_up(nanos), at_least_micros)
            reasons = [one.estimate_reason for one in group if one.estimate_reason is not None]
            made.append(
                CostRecorded(
                    tenant=request.tenant,
                    user_id=request.user_id,
                    at_ms=request.at_ms,
                    request_id=request.request_id,
                    session_id=request.session_id,
                    model=name,
                    usage=reduce(add, (one.usage for one in group)),
                    cost_micros=micros - before_micros,
                    price_digest=UNPRICED if rates is None else self._prices.digest,
                    estimated=bool(reasons) or is_worst_case,
                    estimate_reason=reasons[0][:REASON_CHARS_MAX] if reasons else None,
                    template=used.template,
                    attempt=used.attempt,
                    call=len(made),
                    calls=sum(one.calls for one in group),
                )
            )
            before_micros = micros
        return tuple(made)

    def _rates(self, model: str, request: ResolvedRequest | AttemptStarted) -> Rates | None:
        rates = self._prices.rates(model, request.at_ms)
        if rates is None:
            self._log.warning("model has no known price", model=model, user_id=request.user_id)
        return rates

    def fold(self, event: Event) -> None:
        """Open or raise a reservation, count what was spent, or release what is not needed."""
        match event:
            case Decision():
                if event.admitted and self.name in event.passed:
                    self._ledger.reserve(event)
            case AttemptStarted():
                self._ledger.begin(event)
            case CallReserved():
                self._ledger.go_on(event)
            case CostRecorded():
                self._ledger.spend(event)
            case AgentResult():
                self._ledger.release(event)

    def state(self) -> Any:
        """Give the accounts."""
        return self._ledger.state()

    def canonical(self) -> Any:
        """Give the accounts by day and user."""
        return self._ledger.canonical()

    def load(self, state: Any) -> None:
        """Take in what `state` gave."""
        self._ledger.load(state)

    def spend(self, tenant: str, user_id: str, at_ms: int) -> DaySpend:
        """Give what a user spent on the UTC day of `at_ms`; zero for a day no longer kept."""
        day = self._ledger.days.get(at_ms // DAY_MS, {}).get((tenant, user_id)) or DayAccount()
        return DaySpend(day.spent_micros, day.held_micros, len(day.open))

    def _cap_micros(self, request: ResolvedRequest) -> Micros | None:
        return self._policy.rules_for(request.tenant, request.user_id).cap_micros

    def _quote(self, context: MiddlewareContext) -> AttemptQuote | ModelUnpriced | None:
        """Give the worst case of an attempt, or of its first call if each is reserved by itself.

        `None` where the model is known to cost nothing.
        """
        models = (context.model, *context.models_beside)
        priced = [(model, self._prices.rates(model, context.now_ms)) for model in models]
        calls = None if context.first_call is None else 1
        unpriced = next((model for model, rates in priced if rates is None), None)
        if unpriced is not None:
            if self._cap_micros(context.request) is None:
                return AttemptQuote(_worst_case(context), 0, UNPRICED, calls)
            return model_unpriced(unpriced)
        known = [rates for _, rates in priced if rates is not None]
        if all(rates.is_free for rates in known):
            return None
        usage_max = _worst_case(context)
        # Whichever of its models a token is for, it costs no more than at the dearest.
        worst_micros = max(
            rates.worst_micros(usage_max, calls or context.model_calls_max) for rates in known
        )
        return AttemptQuote(usage_max, worst_micros, self._prices.digest, calls)


def _worst_case(context: MiddlewareContext) -> Usage:
    if context.first_call is not None:
        return context.first_call
    read = context.input_tokens_max
    if read is None:
        # No tokenizer makes more tokens than there are bytes.
        read = len(context.request.input.encode()) + PROMPT_TOKENS_MAX
    return Usage.model_construct(input_tokens=read, output_tokens=context.output_tokens_max)


def _at_least(usage: Usage, worst: Usage) -> Usage:
    return usage.model_copy(
        update={
            "input_tokens": max(usage.input_tokens, worst.input_tokens),
            "output_tokens": max(usage.output_tokens, worst.output_tokens),
        }
    )
