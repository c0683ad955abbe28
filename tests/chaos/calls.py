"""What the model's log says: which calls were repeated, out of order, and taken up."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from millstream.schemas.events import AgentResult
from tests.harness.audit import Asked

UNDER_WAY_MS = 500.0
"""So soon does a worker that is woken make the calls that it was about to make."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the model; `ended_ms` is `None` if its end was not logged."""

    worker: str
    request_id: str
    started_ms: float
    ended_ms: float | None = None
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Kill:
    """A SIGKILL to a worker."""

    worker: str
    at_ms: float


@dataclass(frozen=True, slots=True)
class Wake:
    """A SIGCONT to a worker."""

    worker: str
    at_ms: float


def read_calls(log: Path) -> tuple[Call, ...]:
    """Read the model server's log, in the order in which the calls began."""
    calls: dict[int, Call] = {}
    for text in log.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if line["event"] == "start":
            calls[line["call"]] = Call(line["worker"], line["request_id"], line["at_ms"])
        elif line["event"] == "end":
            end = {"ended_ms": line["at_ms"], "finished": line["finished"]}
            calls[line["call"]] = replace(calls[line["call"]], **end)
    return tuple(calls.values())


def repeated(
    calls: Iterable[Call], results: Iterable[AgentResult], woken: Iterable[Wake] = ()
) -> tuple[str, ...]:
    """Name each call that was made though its run had been completed, as its result says.

    This is all that can be told of runs of one call: it stands on the log with the result. What a
    worker was about to call as it was stopped, it calls as it is `woken`: nobody can keep it.
    """
    awake = [(one.worker, one.at_ms, one.at_ms + UNDER_WAY_MS) for one in woken]
    ended_ms = {one.request_id: one.at_ms for one in results if one.status == "completed"}
    late = float("inf")
    return tuple(
        f"{call.request_id} was called by {call.worker} after its result was on the log"
        for call in calls
        if call.started_ms > ended_ms.get(call.request_id, late) + 1  # they are whole milliseconds
        and not any(call.worker == name and a <= call.started_ms < b for name, a, b in awake)
    )


def out_of_order(calls: Iterable[Call], asked: Iterable[Asked]) -> tuple[str, ...]:
    """Name each call that began before the run ahead of it in its session was answered.

    This holds for every call, whoever makes it: a worker that was cut off runs a session in order
    too, and one that takes over has the earlier runs' results, or makes them.
    """
    ahead: dict[str, str] = {}
    newest: dict[str, str] = {}
    for one in asked:
        if one.runs:
            if one.session in newest:
                ahead[one.request_id] = newest[one.session]
            newest[one.session] = one.request_id
    answered_ms: dict[str, float] = {}
    calls = tuple(calls)
    for call in calls:
        if call.finished and call.ended_ms is not None:
            first = answered_ms.get(call.request_id, call.ended_ms)
            answered_ms[call.request_id] = min(first, call.ended_ms)
    late = float("inf")
    return tuple(
        f"{call.request_id} was called by {call.worker} before {before} was answered"
        for call in calls
        if (before := ahead.get(call.request_id)) is not None
        and answered_ms.get(before, late) > call.started_ms
    )


def resumed_after_s(calls: Sequence[Call], kills: Iterable[Kill]) -> tuple[float, ...]:
    """Give the seconds from each kill that cut calls off to the first of them made anew."""
    started = defaultdict(list)
    for call in calls:
        started[call.request_id].append(call.started_ms)
    found = []
    for kill in kills:
        cut = {
            call.request_id
            for call in calls
            if call.worker == kill.worker and call.started_ms <= kill.at_ms and not call.finished
        }
        later = [at for name in cut for at in started[name] if at > kill.at_ms]
        if later:
            found.append((min(later) - kill.at_ms) / 1000)
    return tuple(found)
