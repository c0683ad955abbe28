"""What each model call of an attempt costs, and that no more can be charged than is reserved."""

from __future__ import annotations

import dataclasses
import math
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from millstream.middleware.base import AttemptUsage
from millstream.middleware.cost import UNPRICED, CostTrackingMiddleware
from millstream.middleware.policy import Policy
from millstream.middleware.prices import PriceTable
from millstream.schemas.base import CallUsage, Usage
from millstream.schemas.events import CostRecorded
from tests import making
from tests.making import context, resolved, used


def calls_of(*each: tuple[str | None, int], **fields: Any) -> AttemptUsage:
    """Make an attempt of calls, each of a model that wrote so many tokens; `None`: its own."""
    calls = tuple(CallUsage(Usage(output_tokens=tokens), model) for model, tokens in each)
    total = sum((call.usage for call in calls), Usage())
    return dataclasses.replace(used(0, **fields), usage=total, calls=calls)


def recorded(cost: CostTrackingMiddleware, attempt: AttemptUsage) -> list[CostRecorded]:
    return [event for event in cost.charge(resolved(), attempt) if isinstance(event, CostRecorded)]


THREE = Policy.from_yaml(
    """
    prices:
      local: {input_usd_per_mtok: 0.3, output_usd_per_mtok: 0.3}
      openai:dear: {input_usd_per_mtok: 10, output_usd_per_mtok: 40}
    """,
    "p",
)


def test_each_call_has_a_record_under_its_own_models_name_and_price() -> None:
    cost = CostTrackingMiddleware(THREE, PriceTable(THREE.prices))
    told = recorded(cost, calls_of((None, 10), ("openai:dear", 5), (None, 10), ("no:body", 9)))
    assert [(one.call, one.calls, one.model, one.cost_micros) for one in told] == [
        (0, 1, "local", 3),
        (1, 1, "openai:dear", 200),
        (2, 1, "local", 3),
        (3, 1, "no:body", 0),
    ]
    assert [one.price_digest == UNPRICED for one in told] == [False, False, False, True]
    assert len({one.event_id for one in told}) == 4


@given(st.lists(st.tuples(st.sampled_from([None, "openai:dear"]), st.integers(0, 9)), max_size=200))
def test_an_attempts_records_are_rounded_up_once_in_all_and_bounded(
    each: list[tuple[str | None, int]],
) -> None:
    cost = CostTrackingMiddleware(THREE, PriceTable(THREE.prices))
    attempt = calls_of(*each, started=making.attempt())
    told = recorded(cost, attempt)
    exact = sum(Decimal("0.3") * n if model is None else Decimal(40) * n for model, n in each)
    assert sum(one.cost_micros for one in told) == math.ceil(exact)
    assert sum((one.usage for one in told), Usage()) == attempt.usage
    assert sum(one.calls for one in told) == len(each)
    assert [one.call for one in told] == list(range(len(told)))
    assert 1 <= len(told) <= 66
    assert all(one.cost_micros >= 0 for one in told)


def test_a_flood_of_models_that_a_tool_calls_is_a_bounded_number_of_records() -> None:
    cost = CostTrackingMiddleware(THREE, PriceTable(THREE.prices))
    told = recorded(cost, calls_of(*((f"no:{number}", 1) for number in range(1000))))
    assert len(told) == 129
    assert told[-1].model == "other"
    assert sum(one.calls for one in told) == 1000


PARTS = ("cache_read", "cache_write", "cache_write_1h", "audio_input", "audio_output")


@given(
    prices=st.fixed_dictionaries(
        {f"{part}_usd_per_mtok": st.none() | st.integers(0, 50) for part in PARTS}
    ),
    shares=st.lists(st.tuples(*(st.integers(0, 50) for _ in range(7))), min_size=1, max_size=4),
)
def test_what_is_reserved_is_never_under_what_calls_within_it_can_be_charged(
    prices: dict[str, int | None], shares: list[tuple[int, ...]]
) -> None:
    price = {"input_usd_per_mtok": 3, "output_usd_per_mtok": 7, **prices}
    policy = Policy.model_validate({"prices": {"local": price}})
    cost = CostTrackingMiddleware(policy, PriceTable(policy.prices))
    names = tuple(f"{part}_tokens" for part in PARTS)
    calls = []
    for read, wrote, *parts in shares:
        # A token may be of several parts at once.
        bounds = (read, read, read, read, wrote)
        held = {
            name: min(part, most) for name, part, most in zip(names, parts, bounds, strict=True)
        }
        calls.append(CallUsage(Usage(input_tokens=read, output_tokens=wrote, **held)))
    total = sum((call.usage for call in calls), Usage())
    asked = dataclasses.replace(
        context(resolved(), output_tokens_max=total.output_tokens),
        input_tokens_max=total.input_tokens,
        model_calls_max=len(calls),
    )
    attempt = dataclasses.replace(used(0), usage=total, calls=tuple(calls))
    charged = sum(one.cost_micros for one in recorded(cost, attempt))
    assert cost.admit(asked).reserved_micros >= charged
