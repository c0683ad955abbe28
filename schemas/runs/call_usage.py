"""What very many model calls used, bounded: of the first each by itself, of the others in sum."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Final

from millstream.schemas.base import TRIES_MAX, CallUsage

__all__ = ["EACH_MAX", "OTHERS", "bounded", "grouped"]

EACH_MAX: Final = 64
"""Calls that are told each by itself, before further ones share what is told of their model."""

OTHERS: Final = "other"
"""Stands for the models of calls that are more than can be told apart."""


def grouped(calls: Sequence[CallUsage]) -> list[list[CallUsage]]:
    """Give the calls that are told of in common: each is by itself, up to a bound.

    What a run makes beyond it, calling a model from a tool again and again, is one group for each
    model, and one for all others beyond as many of these.
    """
    groups = [[one] for one in calls[:EACH_MAX]]
    rest: dict[str | None, list[CallUsage]] = {}
    for one in calls[EACH_MAX:]:
        known = one.model in rest or len(rest) < EACH_MAX
        rest.setdefault(one.model if known else OTHERS, []).append(one)
    return [*groups, *rest.values()]


def bounded(calls: Sequence[CallUsage]) -> tuple[CallUsage, ...]:
    """Give what calls used, one for each of their groups; a group's estimate is an estimate."""
    if len(calls) <= EACH_MAX:
        return tuple(calls)
    return tuple(_summed(group) for group in grouped(calls))


def _summed(group: Sequence[CallUsage]) -> CallUsage:
    reasons = (one.estimate_reason for one in group if one.estimate_reason is not None)
    return CallUsage(
        usage=reduce(add, (one.usage for one in group)),
        model=group[0].model if len({one.model for one in group}) == 1 else OTHERS,
        estimate_reason=next(reasons, None),
        calls=min(sum(one.calls for one in group), TRIES_MAX),
    )
