"""Whether a run may be tried again that made calls with an effect, or may have made some.

What such a run finished is kept in memory and not done again. Where that memory is gone, or a call
gave no answer, another attempt could do twice what was asked for once.
"""

from __future__ import annotations

from dataclasses import replace

from millstream.agents.attempt import RunOutcome
from millstream.schemas.reasons import reason_of
from millstream.schemas.runs.errors import InDoubt
from millstream.streams.lane.runs.run import Run

__all__ = ["doubt_after", "doubt_before"]

NAMED_MAX = 10


def doubt_before(run: Run, lost: int) -> InDoubt | None:
    """Say why a run may not begin its next attempt, `None`: it may.

    `lost` counts its attempts that ended with the workers that made them.
    """
    if run.plan.template.in_doubt == "retry":
        return None
    if unsettled := run.calls.unsettled:
        return InDoubt(f"it is not known what became of {_named(unsettled)}")
    if run.calls.forgotten:
        message = f"what {_named(dict(enumerate(run.calls.forgotten)))} gave was lost with a worker"
        return InDoubt(message)
    if lost and run.plan.has_effects:
        tools = ", ".join(run.plan.effects[:NAMED_MAX])
        return InDoubt(f"a worker was lost with the run, which may have called any of: {tools}")
    return None


def doubt_after(run: Run, failed: RunOutcome, delay_s: float) -> RunOutcome | None:
    """Give the outcome of a run that may not be tried again in `delay_s` seconds, else `None`."""
    doubt = doubt_before(run, 0)
    template = run.plan.template
    if doubt is None and run.calls.effects and delay_s > template.effects_wait_s:
        if template.in_doubt == "retry":
            return None
        doubt = InDoubt(
            f"the next attempt is {delay_s:.0f} s away, and what {_named(run.calls.effects)} gave "
            f"is kept for {template.effects_wait_s:g} s"
        )
    if doubt is None:
        return None
    message = str(doubt)
    if (before := failed.result.reason) is not None:
        message += f"; the last attempt failed: {before.code}: {before.message}"
    result = failed.result.model_copy(update={"reason": reason_of(InDoubt(message))})
    return replace(failed, result=result, retryable=False)


def _named(calls: dict[str, str] | dict[int, str]) -> str:
    names = [
        f"{name} ({one})" if isinstance(one, str) else name
        for one, name in list(calls.items())[:NAMED_MAX]
    ]
    more = len(calls) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
