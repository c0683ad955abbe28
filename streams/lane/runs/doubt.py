"""Whether a run may be tried again that made calls with an effect, or may have made some.

What such a run finished stands on its journal and is not done again. Where a call gave no answer,
or a worker wrote down nothing, another attempt could do twice what was asked for once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice

from millstream.agents.attempt import RunOutcome
from millstream.schemas.reasons import reason_of
from millstream.schemas.runs.errors import InDoubt
from millstream.streams.lane.runs.run import Run

__all__ = ["doubt_after", "doubt_before", "under_way_s"]

NAMED_MAX = 10


def doubt_before(run: Run, *, unjournalled: bool) -> InDoubt | None:
    """Say why a run may not begin its next attempt, `None`: it may.

    `unjournalled`: an attempt of it was lost with a worker that wrote down no calls.
    """
    if run.plan.template.in_doubt == "retry":
        return None
    if unsettled := run.calls.unsettled:
        message = (
            f"it is not known what became of {_told(unsettled, run)}; find out before you ask anew "
            "(a tool says by its `effect` what is to follow)"
        )
        return InDoubt(message)
    if forgotten := run.calls.forgotten:
        message = f"what {_first(forgotten, len(forgotten), ', ')} gave was lost with a worker"
        return InDoubt(message)
    if unjournalled and run.plan.has_effects:
        tools = ", ".join(run.plan.effects[:NAMED_MAX])
        return InDoubt(f"a worker was lost with the run, which may have called any of: {tools}")
    return None


def doubt_after(run: Run, failed: RunOutcome) -> RunOutcome | None:
    """Give the outcome of a failed run that may not be tried again, else `None`."""
    doubt = doubt_before(run, unjournalled=False)
    if doubt is None:
        return None
    message = str(doubt)
    if (before := failed.result.reason) is not None:
        message += f"; the last attempt failed: {before.code}: {before.message}"
    result = failed.result.model_copy(update={"reason": reason_of(InDoubt(message))})
    return replace(failed, result=result, retryable=False)


def under_way_s(run: Run, now_ms: int) -> float:
    """Give for how many seconds a call of an earlier owner may still be under way.

    Only of calls that are to be asked about: one that is made again has the key of the first, and
    whoever was asked too early would say of the first one that it was not made. A call without a
    limit is waited for as long as the template says.
    """
    longest_s = run.plan.template.effects_wait_s
    if not run.calls.were_recorded:
        return 0.0
    asked = [
        intent
        for call_id, intent in run.calls.intents.items()
        if intent.effect == "reconcile" and call_id in run.calls.settleable
    ]
    ends_s = (
        longest_s if one.until_ms is None else (one.until_ms - now_ms) / 1000 for one in asked
    )
    return min(max(ends_s, default=0.0), longest_s)


def _told(calls: Mapping[str, str], run: Run) -> str:
    """Name calls, with their arguments and when they were to be made, where that is known."""
    intents = run.calls.intents
    return _first(
        (
            f"{name} ({one})" + (f", {intents[one].told}" if one in intents else "")
            for one, name in calls.items()
        ),
        len(calls),
        "; ",
    )


def _first(names: Iterable[str], count: int, joined_by: str) -> str:
    """Give the first of so many names, and how many more there are."""
    told = joined_by.join(islice(names, NAMED_MAX))
    return told + (f" and {count - NAMED_MAX} more" if count > NAMED_MAX else "")
