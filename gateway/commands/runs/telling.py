"""Open runs, as people and programs are told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from millstream.gateway.console.cleaning import in_line
from millstream.gateway.console.rendering import reason_text, what
from millstream.gateway.console.terminal import print_data, print_table
from millstream.gateway.console.time_parsing import time_text
from millstream.schemas.base import DEFAULT_TENANT
from millstream.streams.history.open_runs import OpenRun, RunRecords

__all__ = ["none_text", "print_run", "print_runs", "run_facts", "run_pairs", "shown_facts"]

_NONE = "-"


def run_facts(one: OpenRun) -> dict[str, Any]:
    """Give a run as a JSON object; what is not known is left out."""
    told: dict[str, Any] = to_jsonable_python(one, exclude_none=True)
    del told["order"]
    return {name: value for name, value in told.items() if value is not None}


def shown_facts(one: OpenRun, records: RunRecords) -> dict[str, Any]:
    """Give a run as a JSON object, with its attempts, moves and the steps of its journal."""
    attempts = [
        {"attempt": each.attempt, "model": each.model, "reserved_micros": each.reserved_micros}
        for each in records.attempts
    ]
    # What was said is the user's: `history --topic journal` has it.
    kept = {"step", "kind", "at_ms", "attempt", "call_id", "name", "effect", "duration_ms"}
    steps = [
        each.model_dump(mode="json", include=kept, exclude_none=True) for each in records.steps
    ]
    moves = [
        {"from": each.from_version, "to": each.to_version, "at_ms": each.at_ms}
        for each in records.moves
    ]
    return {**run_facts(one), "attempts": attempts, "moves": moves, "journal": steps}


def print_runs(runs: Sequence[OpenRun]) -> None:
    """Print a table with a line for each run."""
    rows = [
        (
            one.request_id,
            _user(one),
            one.session_id,
            _template(one),
            one.state,
            _NONE if one.since_ms is None else time_text(one.since_ms),
            str(one.steps),
            in_line(one.why),
        )
        for one in runs
    ]
    heads = ("request", "user", "session", "template", "state", "since", "steps", "why")
    print_table(heads, rows)


def print_run(one: OpenRun, records: RunRecords) -> None:
    """Print what is known of a run, a line each, and a line for each step of its journal."""
    pairs = run_pairs(one, records)
    width = max(len(name) for name, _ in pairs)
    for name, told in pairs:
        print_data(f"{name:<{width}}  {in_line(told)}")
    for step in records.steps:
        print_data(f"{'step':<{width}}  {time_text(step.at_ms)}  {in_line(what(step))}")


def run_pairs(one: OpenRun, records: RunRecords) -> list[tuple[str, str]]:
    """Give what is known of a run, by names."""
    attempts = ", ".join(f"{each.attempt} on {each.model}" for each in records.attempts)
    moves = ", ".join(
        f"from {each.from_version} to {each.to_version} at {time_text(each.at_ms)}"
        for each in records.moves
    )
    since = "" if one.since_ms is None else f" since {time_text(one.since_ms)}"
    return [
        ("request", one.request_id),
        ("user", _user(one)),
        ("session", one.session_id),
        ("template", _template(one)),
        ("state", one.state + since),
        ("why", one.why),
        ("asked", time_text(one.asked_at_ms)),
        ("deadline", _NONE if one.deadline_ms is None else time_text(one.deadline_ms)),
        ("attempts", attempts or _NONE),
        ("failed", f"{one.failures}" + ("" if one.failure is None else f", {_failure(one)}")),
        ("moved", moves or _NONE),
        ("journal", f"{len(records.steps)} steps"),
    ]


def none_text(others: Sequence[OpenRun]) -> str:
    """Say that no run is open that is wanted; `others` are those that the topics' filter gave."""
    if not others:
        return "no run is open"
    names = sorted({_template(one) for one in others})
    return f"no such run is open; {len(others)} others are, of {', '.join(names[:10])}"


def _user(one: OpenRun) -> str:
    return one.user_id if one.tenant == DEFAULT_TENANT else f"{one.tenant}/{one.user_id}"


def _template(one: OpenRun) -> str:
    version = "" if one.template_version is None else f" {one.template_version}"
    return f"{one.template}{version}"


def _failure(one: OpenRun) -> str:
    assert one.failure is not None  # noqa: S101  whoever tells of it has looked
    return f"last {reason_text(one.failure)}"
