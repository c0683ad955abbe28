"""Steps of runs: gathered, and checked as a subscriber relies on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from millstream.schemas.steps import BEGINS_ATTEMPT, AgentStep

__all__ = ["kinds", "require_sound"]


def kinds(steps: Iterable[AgentStep]) -> list[str]:
    """Give the kinds of steps, in order."""
    return [step.kind for step in steps]


def require_sound(steps: Sequence[AgentStep]) -> None:
    """Check the steps of one request, in the order of their topic.

    Contiguous from 0 in each attempt, no attempt behind a higher one; a later attempt says first
    why it follows; each end of a call has a beginning, and no call ends twice.
    """
    attempts = [attempt for attempt, _ in groupby(steps, key=lambda step: step.attempt)]
    assert attempts == sorted(set(attempts))
    for attempt in attempts:
        mine = [step for step in steps if step.attempt == attempt]
        assert [step.seq for step in mine] == list(range(len(mine)))
        places = [step.text_bytes for step in mine]
        assert places == sorted(places)
        assert [one for one in kinds(mine[1:]) if one in BEGINS_ATTEMPT] == []
        open_calls: set[str | None] = set()
        for step in mine:
            if step.kind in {"tool_start", "model_start"}:
                assert step.call_id not in open_calls
                open_calls.add(step.call_id)
            elif step.kind in {"tool_end", "tool_error", "model_end", "model_error"}:
                open_calls.remove(step.call_id)
