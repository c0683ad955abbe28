"""A cap on what a user spends in a UTC day: reserved before the run, settled after it.

The day of a request is that of the broker's clock when it arrived, and all that the run costs falls
on it, however late it ends. Kept are the newest day seen and the one before; what arrives dated
earlier still counts on the older of the two. `CostRecorded` carries the request's time for that.

A cost record and the result it belongs to may be folded in either order, and with other users'
records between them: whatever the result says was spent and no cost record has said yet stays
reserved. So spend is never seen too small, also by a stage that reads both topics.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from middleware.base import (
    GO_ON,
    AgentMiddleware,
    MiddlewareContext,
    MiddlewareResult,
    Settlement,
)
from middleware.policy import MICROS_PER_USD, Policy, UserKey
from middleware.prices import PriceTable
from schemas.base import Event, Micros, Usage, partition_key
from schemas.errors import BudgetExceeded, ModelUnpriced
from schemas.events import AgentResult, CostRecorded, Decision, ResolvedRequest

DAY_MS = 86_400_000
DAYS_KEPT = 2

PROMPT_TOKENS_MAX = 1024
"""Taken for a template's own words and the chat's framing where nobody says what a run may read."""

UNPRICED = "unpriced"
"""Stands for the price digest where no table knew the model: its cost of 0 is a gap."""

UNKNOWN_MODEL = "unknown"


@dataclass(slots=True)
class _Reservation:
    """`held_micros` still counts against the cap; `settled_micros` is already in `spent`."""

    held_micros: Micros
    settled_micros: Micros = 0
    is_over: bool = False


@dataclass(slots=True)
class _Day:
    spent_micros: Micros = 0
    held_micros: Micros = 0
    open: dict[str, _Reservation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DaySpend:
    """What a user's runs of one day have cost, and what open ones may still cost, in micros."""

    spent_micros: Micros
    reserved_micros: Micros
    runs_open: int


class CostTrackingMiddleware(AgentMiddleware):
    """Reserves a run's worst case under its user's cap, and makes its usage a `CostRecorded`.

    Admits if spent + reserved + this run's worst case is at most the cap; else `BudgetExceeded`.
    The worst case is `output_tokens_max` and `input_tokens_max` at the model's price; where the
    latter is not known, a token for each byte of the input and 1,024 for the rest of the prompt.

    A model without a known price is admitted for users without a cap; its usage is recorded at 0
    with the price digest `unpriced`. Under a cap it is `ModelUnpriced`, since nothing could hold
    it; the reason names the price to set. `local` and `scripted` cost nothing unless the policy
    says so.

    Memory: two days of the users who spent or reserved in them, and the runs that are open.
    """

    name = "cost"
    priority = 30
    folds = frozenset({Decision, CostRecorded, AgentResult})

    def __init__(self, policy: Policy, prices: PriceTable, *, enabled: bool = True) -> None:
        super().__init__(enabled=enabled)
        self._policy = policy
        self._prices = prices
        self._log = structlog.get_logger("millstream.cost").bind()
        self._days: dict[int, dict[UserKey, _Day]] = {}
        self._newest_day = 0

    @property
    def history_ms(self) -> int:
        """The days kept."""
        return DAYS_KEPT * DAY_MS

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:
        """Reserve the run's worst case if it fits under the cap."""
        request = context.request
        cap_micros = self._policy.rules_for(request.tenant, request.user_id).cap_micros
        if cap_micros is None:
            return GO_ON
        rates = self._prices.rates(context.model, context.now_ms)
        if rates is None:
            return MiddlewareResult(
                ModelUnpriced(
                    f"model {context.model!r} has no known price, and the user's spend is capped; "
                    f"set it in the policy: prices: {{{context.model!r}: "
                    f"{{input_usd_per_mtok: …, output_usd_per_mtok: …}}}}"
                )
            )
        needed_micros = rates.cost_micros(_worst_case(context))
        day = self._days.get(self._kept(context.now_ms), {}).get((request.tenant, request.user_id))
        taken_micros = 0 if day is None else day.spent_micros + day.held_micros
        if taken_micros + needed_micros <= cap_micros:
            return MiddlewareResult(reserved_micros=needed_micros) if needed_micros else GO_ON
        return MiddlewareResult(
            BudgetExceeded(
                f"user {partition_key(request.tenant, request.user_id)!r} may spend "
                f"{_usd(cap_micros)} a day (UTC); {_usd(taken_micros)} is spent or reserved, and "
                f"this run may cost up to {_usd(needed_micros)}"
            )
        )

    def settle(self, request: ResolvedRequest, result: AgentResult) -> Settlement:
        """Price the run's usage: gives the result with its cost, and the cost's record."""
        usage = result.usage
        if not usage.input_tokens and not usage.output_tokens:
            return Settlement(result)
        model = result.model or request.model or UNKNOWN_MODEL
        rates = self._prices.rates(model, request.at_ms)
        if rates is None:
            self._log.warning("model has no known price", model=model, user_id=request.user_id)
        cost_micros = 0 if rates is None else rates.cost_micros(usage)
        cost = CostRecorded(
            tenant=request.tenant,
            user_id=request.user_id,
            at_ms=request.at_ms,
            request_id=request.request_id,
            session_id=request.session_id,
            model=model,
            usage=usage,
            cost_micros=cost_micros,
            price_digest=UNPRICED if rates is None else self._prices.digest,
            template=result.template,
            attempt=result.attempt,
        )
        return Settlement(result.model_copy(update={"cost_micros": cost_micros}), (cost,))

    def fold(self, event: Event) -> None:
        """Open a reservation, count what was spent, or release what a run no longer needs."""
        match event:
            case Decision():
                if event.admitted and self.name in event.passed:
                    self._reserve(event)
            case CostRecorded():
                self._spend(event)
            case AgentResult():
                self._release(event)

    def spend(self, tenant: str, user_id: str, at_ms: int) -> DaySpend:
        """Give what a user spent on the UTC day of `at_ms`; zero for a day no longer kept."""
        day = self._days.get(at_ms // DAY_MS, {}).get((tenant, user_id), _Day())
        return DaySpend(day.spent_micros, day.held_micros, len(day.open))

    def _kept(self, at_ms: int) -> int:
        """Give the day that something of this time counts on."""
        return max(at_ms // DAY_MS, self._newest_day - DAYS_KEPT + 1)

    def _reserve(self, decision: Decision) -> None:
        number = self._kept(decision.at_ms)
        if number > self._newest_day:
            self._newest_day = number
            # Few days are ever there: this costs as many steps, once a day.
            for old in [each for each in self._days if each <= number - DAYS_KEPT]:
                del self._days[old]
        if not decision.reserved_micros:
            return
        day = self._day(number, (decision.tenant, decision.user_id))
        day.open[decision.request_id] = _Reservation(decision.reserved_micros)
        day.held_micros += decision.reserved_micros

    def _spend(self, cost: CostRecorded) -> None:
        user = (cost.tenant, cost.user_id)
        found = self._find(user, cost.request_id)
        if found is None:
            # A run without a reservation. Its day may be over: then nothing asks for it any more.
            number = cost.at_ms // DAY_MS
            if cost.cost_micros and number > self._newest_day - DAYS_KEPT:
                self._day(number, user).spent_micros += cost.cost_micros
            return
        day, reservation = found
        day.spent_micros += cost.cost_micros
        reservation.settled_micros += cost.cost_micros
        self._hold(day, cost.request_id, reservation.held_micros - cost.cost_micros)

    def _release(self, result: AgentResult) -> None:
        found = self._find((result.tenant, result.user_id), result.request_id)
        if found is None:
            return
        day, reservation = found
        reservation.is_over = True
        self._hold(day, result.request_id, result.cost_micros - reservation.settled_micros)

    def _hold(self, day: _Day, request_id: str, micros: Micros) -> None:
        reservation = day.open[request_id]
        day.held_micros -= reservation.held_micros
        reservation.held_micros = max(0, micros)
        day.held_micros += reservation.held_micros
        if reservation.is_over and not reservation.held_micros:
            del day.open[request_id]

    def _find(self, user: UserKey, request_id: str) -> tuple[_Day, _Reservation] | None:
        for users in self._days.values():
            day = users.get(user)
            if day is not None and request_id in day.open:
                return day, day.open[request_id]
        return None

    def _day(self, number: int, user: UserKey) -> _Day:
        return self._days.setdefault(number, {}).setdefault(user, _Day())


def _worst_case(context: MiddlewareContext) -> Usage:
    read = context.input_tokens_max
    if read is None:
        # No tokenizer makes more tokens than there are bytes.
        read = len(context.request.input.encode()) + PROMPT_TOKENS_MAX
    return Usage.model_construct(input_tokens=read, output_tokens=context.output_tokens_max)


def _usd(micros: Micros) -> str:
    whole, rest = divmod(micros, MICROS_PER_USD)
    return f"${whole}.{rest:06d}"
