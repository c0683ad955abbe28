"""Journals of runs that were moved to another version of their template, read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from millstream.agents.loop.calls import Calls
from millstream.schemas.journal.steps import JournalKind, JournalStep

__all__ = ["MOVED", "recorded_calls", "schema_digest"]

MOVED: Final[JournalKind] = "moved"


def recorded_calls(steps: Sequence[JournalStep]) -> Calls:
    """Give the calls that a run's journal tells of.

    What a model answered before the run was moved counts, whatever the version that it goes on with
    asks: it would have asked otherwise. What is answered after it is compared again. Raises
    `JournalUnreadable`.
    """
    newest = next((step for step in reversed(steps) if step.kind == MOVED), None)
    if newest is None:
        return Calls.recorded(steps)
    calls = Calls.recorded(
        [
            step.model_copy(update={"asked": None})
            if step.kind == "answered" and step.step < newest.step
            else step
            for step in steps
            if step.kind != MOVED
        ]
    )
    if newest.began is not None:
        calls.tools_begun = frozenset(newest.began.tools)
    return calls


def schema_digest(schema: Mapping[str, Any] | None) -> str:
    """Give what stands for the schema of an answer, `""` where there is none."""
    if schema is None:
        return ""
    text = json.dumps(schema, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16, person=b"answer-schema").hexdigest()
