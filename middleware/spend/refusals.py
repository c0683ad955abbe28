"""How it reads that a user may spend no more, or that nobody knows what something costs."""

from __future__ import annotations

from datetime import UTC, datetime

from millstream.middleware.base import MiddlewareContext
from millstream.middleware.policy import MICROS_PER_USD
from millstream.middleware.spend.ledger import DAY_MS
from millstream.schemas.base import EPOCH_MS_MAX, Micros, partition_key
from millstream.schemas.errors import BudgetExceeded, ModelUnpriced
from millstream.schemas.events import ResolvedRequest

__all__ = ["exceeded", "may_spend", "model_unpriced", "usd", "what_runs"]


def model_unpriced(model: str) -> ModelUnpriced:
    """Say which price lacks under a cap, and where to set it."""
    return ModelUnpriced(
        f"model {model!r} has no known price, and the user's spend is capped; set it in the "
        f"policy: prices: {{{model!r}: {{input_usd_per_mtok: …, output_usd_per_mtok: …}}}}"
    )


def what_runs(context: MiddlewareContext) -> str:
    """Say what is reserved for before a run begins."""
    if context.model_calls_max == 1:
        return "this run"
    if context.first_call is not None:
        return "the first model call of this run"
    return f"this run, with all of its {context.model_calls_max} model calls,"


def may_spend(request: ResolvedRequest, cap_micros: Micros) -> str:
    """Say what a user's cap is."""
    user = partition_key(request.tenant, request.user_id)
    return f"user {user!r} may spend {usd(cap_micros)} a day (UTC)"


def exceeded(
    words: str,
    context: MiddlewareContext,
    *,
    fits_another_day: bool,
    fits_without_others: bool = False,
) -> BudgetExceeded:
    """Say when there is money again: on the next day of UTC, unless a day's is too little.

    Where runs under way hold it, that is as they end, and nobody knows when.
    """
    if fits_without_others:
        return BudgetExceeded(f"{words}; what these do not use is free again as they end")
    if not fits_another_day:
        advice = "raise `spend` in the policy, or lower the template's limits"
        return BudgetExceeded(f"{words}, more than a whole day's: {advice}")
    free_at_ms = (context.now_ms // DAY_MS + 1) * DAY_MS
    free_at = datetime.fromtimestamp(min(free_at_ms, EPOCH_MS_MAX) / 1000, UTC)
    return BudgetExceeded(
        f"{words}; the budget is free again at {free_at:%Y-%m-%dT%H:%M:%SZ}",
        retry_after_s=(free_at_ms - context.now_ms) / 1000,
    )


def usd(micros: Micros) -> str:
    """Give millionths of a US dollar as dollars."""
    whole, rest = divmod(micros, MICROS_PER_USD)
    return f"${whole}.{rest:06d}"
