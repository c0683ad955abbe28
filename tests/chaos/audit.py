"""The audit: from what stands on the topics to what was lost, made twice, disordered or garbled."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from millstream.schemas.events import (
    AgentRequest,
    AgentResult,
    AgentToken,
    AttemptStarted,
    CheckpointSaved,
    CostRecorded,
    Decision,
    RequestEvent,
)
from millstream.schemas.topics import (
    ATTEMPTS,
    CHECKPOINTS,
    COSTS,
    DECISIONS,
    HOLDS,
    PARKED,
    REQUESTS,
    RESULTS,
    TOKENS,
)
from millstream.streams.settings import Settings
from tests.chaos.load import Asked
from tests.harness.handovers import longest_wait_s
from tests.harness.lanes import open_keys, read_whole


@dataclass(frozen=True, slots=True)
class Records:
    """All that is committed, each topic's records in the order of their partitions."""

    requests: Sequence[AgentRequest]
    results: Sequence[AgentResult]
    tokens: Sequence[AgentToken]
    decisions: Sequence[Decision]
    attempts: Sequence[AttemptStarted]
    costs: Sequence[CostRecorded]
    checkpoints: Sequence[CheckpointSaved]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found, each fault in words. `superseded` attempts are no fault."""

    requests: int
    results: int
    superseded: int
    longest_wait_s: float
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    out_of_order: tuple[str, ...]
    wrong_text: tuple[str, ...]


async def read_records(settings: Settings) -> Records:
    """Read the topics whole, committed records only."""
    return Records(
        requests=await read_whole(settings, REQUESTS, AgentRequest),
        results=await read_whole(settings, RESULTS, AgentResult),
        tokens=await read_whole(settings, TOKENS, AgentToken),
        decisions=await read_whole(settings, DECISIONS, Decision),
        attempts=await read_whole(settings, ATTEMPTS, AttemptStarted),
        costs=await read_whole(settings, COSTS, CostRecorded),
        checkpoints=await read_whole(settings, CHECKPOINTS, CheckpointSaved),
    )


async def left_behind(settings: Settings) -> list[str]:
    """Name what is parked or paused though every request has its result."""
    return [
        f"{len(keys)} keys are left on {spec.name}"
        for spec in (PARKED, HOLDS)
        if (keys := await open_keys(settings, spec))
    ]


def audit(load: Sequence[Asked], records: Records) -> Verdict:
    """Compare what was asked for with what is on the topics."""
    attempts: dict[str, dict[int, list[AgentToken]]] = defaultdict(lambda: defaultdict(list))
    for token in records.tokens:
        attempts[token.request_id][token.attempt].append(token)
    every = {one.request_id for one in load}
    answered = {one.request_id for one in load if one.runs}
    # A cancel may come before the request, or in the midst of its run.
    cancelled = {one.request_id for one in load if one.cancelled}
    wanted: tuple[tuple[str, set[str], Sequence[RequestEvent]], ...] = (
        ("result", every, records.results),
        ("decision", every - cancelled, records.decisions),
        ("checkpoint", answered, records.checkpoints),
    )
    lost = [f"{one.request_id}: no request" for one in _unpublished(load, records.requests)]
    twice = []
    for what, ids, events in wanted:
        counts = Counter(event.request_id for event in events)
        lost += [f"{name}: no {what}" for name in sorted(ids - counts.keys())]
        twice += [f"{name}: {n} {what} records" for name, n in counts.items() if n > 1]
        twice += [
            f"{name}: a {what} nobody asked for" for name in sorted(counts.keys() - ids - cancelled)
        ]
    lost += _uncharged(answered, records)
    twice += _charged_twice(records)
    return Verdict(
        requests=len({one.request_id for one in records.requests}),
        results=len(records.results),
        superseded=sum(len(of_request) - 1 for of_request in attempts.values()),
        longest_wait_s=longest_wait_s(records.results),
        lost=tuple(lost),
        twice=tuple(twice),
        out_of_order=tuple(_disordered(load, records.results)),
        wrong_text=tuple(_garbled(load, records.results, attempts)),
    )


def _uncharged(answered: set[str], records: Records) -> Iterable[str]:
    """Name runs that were never begun, and attempts that nobody charged for."""
    begun = {(one.request_id, one.attempt) for one in records.attempts}
    for name in sorted(answered - {request_id for request_id, _ in begun}):
        yield f"{name}: no attempt"
    charged = {(cost.request_id, cost.attempt) for cost in records.costs}
    for name, attempt in sorted(begun - charged):
        yield f"{name}: no cost of attempt {attempt}"


def _charged_twice(records: Records) -> Iterable[str]:
    """Name attempts with several cost records, or without a mark."""
    begun = {(one.request_id, one.attempt) for one in records.attempts}
    for one, count in Counter((cost.request_id, cost.attempt) for cost in records.costs).items():
        if count > 1 or one not in begun:
            yield f"{one[0]}: {count} cost records of attempt {one[1]}"


def _unpublished(load: Iterable[Asked], requests: Iterable[AgentRequest]) -> Iterable[Asked]:
    there = {one.request_id for one in requests}
    return (one for one in load if one.request_id not in there)


def _disordered(load: Sequence[Asked], results: Iterable[AgentResult]) -> Iterable[str]:
    """Name results that stand before that of an earlier run of their session.

    What is refused or cancelled does not wait for those ahead of it.
    """
    turn = {one.request_id: number for number, one in enumerate(load) if one.runs}
    newest: dict[str, str] = {}
    for result in results:
        if result.request_id not in turn:
            continue
        session = f"{result.user_id}/{result.session_id}"
        before = newest.get(session)
        if before is not None and turn[before] > turn[result.request_id]:
            yield f"{result.request_id} stands behind {before}"
        newest[session] = result.request_id


def _garbled(
    load: Sequence[Asked],
    results: Iterable[AgentResult],
    attempts: dict[str, dict[int, list[AgentToken]]],
) -> Iterable[str]:
    asked = {one.request_id: one for one in load}
    for request_id, of_request in attempts.items():
        for attempt, tokens in of_request.items():
            if [token.seq for token in tokens] != list(range(len(tokens))):
                yield f"{request_id}: the tokens of attempt {attempt} have gaps or repetitions"
    for result in results:
        one = asked.get(result.request_id)
        if one is None:
            continue
        status = one.status
        if result.status != status or result.output != one.answer:
            yield (
                f"{result.request_id}: {result.status} {result.output!r}, "
                f"not {status} {one.answer!r} ({result.reason})"
            )
        elif result.output is not None:
            yield from _unlike_its_tokens(result, attempts[result.request_id])


def _unlike_its_tokens(result: AgentResult, attempts: dict[int, list[AgentToken]]) -> Iterable[str]:
    assert result.output is not None
    if max(attempts, default=None) != result.attempt:
        yield f"{result.request_id}: the result is of {result.attempt} of {sorted(attempts)}"
        return
    tokens = attempts[result.attempt]
    if len(tokens) != result.last_seq + 1 or "".join(one.text for one in tokens) != result.output:
        yield f"{result.request_id}: the tokens of {result.attempt} are not the result's text"
    if hashlib.sha256(result.output.encode()).hexdigest() != result.text_sha256:
        yield f"{result.request_id}: the text has another hash than the result says"
