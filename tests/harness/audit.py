"""The audit: from what stands on the topics to what was lost, made twice, disordered or garbled.

Crash tests and the chaos suite ask it alike: what was asked for, in publish order, against all that
a deployment has committed.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

from millstream.schemas.base import Event
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
from millstream.schemas.steps import AgentStep
from millstream.schemas.topics import (
    ATTEMPTS,
    CHECKPOINTS,
    COSTS,
    DECISIONS,
    HOLDS,
    PARKED,
    REQUESTS,
    RESULTS,
    STEPS,
    TOKENS,
    TopicSpec,
)
from tests.harness.handovers import longest_wait_s
from tests.harness.lanes import open_keys, read_whole

ANY_TEXT = "any text"
"""The answer of a request of which only its tokens say what its text must be."""

EventT = TypeVar("EventT", bound=Event)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, in publish order, and the text that must come of it.

    There is none if it is refused, or was cancelled. One that `fails` is to end as failed, with
    whatever text it had written by then.
    """

    request_id: str
    user_id: str
    session_id: str
    refused: bool = False
    answer: str | None = ANY_TEXT
    cancelled: bool = False
    fails: bool = False

    @property
    def status(self) -> str:
        """The status of its result."""
        if self.cancelled:  # nothing is decided on what is cancelled before it is read
            return "cancelled"
        if self.fails:
            return "failed"
        return "rejected" if self.refused else "completed"

    @property
    def runs(self) -> bool:
        """Whether it is a run that ends by itself, and so waits for those ahead of it."""
        return self.status == "completed"

    @property
    def session(self) -> str:
        """The session's name across users."""
        return f"{self.user_id}/{self.session_id}"


class ReadWhole(Protocol):
    """Reads all that is committed on a topic: `tests.harness.lanes` has it, and its twin."""

    async def __call__(
        self, where: Any, spec: TopicSpec, event: type[EventT], /
    ) -> list[EventT]: ...


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
    steps: Sequence[AgentStep] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found, each fault in words; `superseded` attempts are none.

    `lost` is a request without a result, decision, attempt or checkpoint, `twice` a second one of
    these or one that nobody asked for, `uncharged` an attempt without a cost, or a result that says
    another sum than its costs, `wrong_steps` an attempt whose steps have a gap, or a result that
    counts others than its attempt has.
    """

    requests: int
    results: int
    superseded: int
    longest_wait_s: float
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    out_of_order: tuple[str, ...]
    wrong_text: tuple[str, ...]
    uncharged: tuple[str, ...]
    wrong_steps: tuple[str, ...] = ()

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        """What is wrong, by kind; empty if nothing is."""
        kinds = (one.name for one in fields(self) if isinstance(getattr(self, one.name), tuple))
        return {kind: found for kind in kinds if (found := getattr(self, kind))}


async def read_records(where: Any, read: ReadWhole = read_whole) -> Records:
    """Read the topics whole, committed records only: on Kafka, or as `read` does it."""
    return Records(
        requests=await read(where, REQUESTS, AgentRequest),
        results=await read(where, RESULTS, AgentResult),
        tokens=await read(where, TOKENS, AgentToken),
        decisions=await read(where, DECISIONS, Decision),
        attempts=await read(where, ATTEMPTS, AttemptStarted),
        costs=await read(where, COSTS, CostRecorded),
        checkpoints=await read(where, CHECKPOINTS, CheckpointSaved),
        steps=await read(where, STEPS, AgentStep),
    )


async def left_behind(
    where: Any, keys_of: Callable[[Any, TopicSpec], Awaitable[set[bytes | None]]] = open_keys
) -> list[str]:
    """Name what is parked or paused though every request has its result."""
    return [
        f"{len(keys)} keys are left on {spec.name}"
        for spec in (PARKED, HOLDS)
        if (keys := await keys_of(where, spec))
    ]


def audit(load: Sequence[Asked], records: Records, *, priced: bool = True) -> Verdict:
    """Compare what was asked for with what is on the topics.

    Where it is `priced`, each run must have a mark of each of its attempts.
    """
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
    begun = {(one.request_id, one.attempt) for one in records.attempts}
    if priced:
        names = {request_id for request_id, _ in begun}
        lost += [f"{name}: no attempt" for name in sorted(answered - names)]
    twice += _charged_twice(records, begun, priced=priced)
    return Verdict(
        requests=len({one.request_id for one in records.requests}),
        results=len(records.results),
        superseded=sum(len(of_request) - 1 for of_request in attempts.values()),
        longest_wait_s=longest_wait_s(records.results),
        lost=tuple(lost),
        twice=tuple(twice),
        out_of_order=tuple(_disordered(load, records.results)),
        wrong_text=tuple(_garbled(load, records.results, attempts)),
        uncharged=tuple(_uncharged(records, begun)),
        wrong_steps=tuple(_misnumbered(records)),
    )


def _misnumbered(records: Records) -> Iterable[str]:
    """Name attempts whose steps have a gap, and results that count others than there are."""
    told: dict[tuple[str, int], list[int]] = defaultdict(list)
    for step in records.steps:
        told[step.request_id, step.attempt].append(step.seq)
    for (name, attempt), numbers in told.items():
        if numbers != list(range(len(numbers))):
            yield f"{name}: the steps {numbers} of attempt {attempt}"
    for result in records.results:
        count = len(told.get((result.request_id, result.attempt), ()))
        if (result.steps or 0) != count:
            yield f"{result.request_id}: {result.steps} steps, not {count}"


def _uncharged(records: Records, begun: set[tuple[str, int]]) -> Iterable[str]:
    """Name attempts that nobody charged for, and results that say another sum than their costs."""
    charged = {(cost.request_id, cost.attempt) for cost in records.costs}
    for name, attempt in sorted(begun - charged):
        yield f"{name}: no cost of attempt {attempt}"
    spent: Counter[str] = Counter()
    for cost in records.costs:
        spent[cost.request_id] += cost.cost_micros
    for result in records.results:
        if result.cost_micros != spent[result.request_id]:
            yield f"{result.request_id}: {result.cost_micros}, not {spent[result.request_id]}"


def _charged_twice(records: Records, begun: set[tuple[str, int]], *, priced: bool) -> Iterable[str]:
    """Name calls with several cost records, attempts with gaps among theirs or without a mark."""
    calls: dict[tuple[str, int], list[int]] = defaultdict(list)
    for cost in records.costs:
        calls[cost.request_id, cost.attempt].append(cost.call)
    for one, numbers in calls.items():
        if sorted(numbers) != list(range(len(numbers))) or (priced and one not in begun):
            yield f"{one[0]}: the cost records {numbers} of attempt {one[1]}"


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
        answer = result.output if one.answer == ANY_TEXT else one.answer
        if result.status != status or result.output != answer:
            yield (
                f"{result.request_id}: {result.status} {result.output!r}, "
                f"not {status} {answer!r} ({result.reason})"
            )
        elif result.output is not None:
            yield from _unlike_its_tokens(result, attempts[result.request_id])


def _unlike_its_tokens(result: AgentResult, attempts: dict[int, list[AgentToken]]) -> Iterable[str]:
    assert result.output is not None
    if not attempts and not result.output:
        return  # a structured answer by itself
    if max(attempts, default=None) != result.attempt:
        yield f"{result.request_id}: the result is of {result.attempt} of {sorted(attempts)}"
        return
    tokens = attempts[result.attempt]
    if len(attempts) > 1 and tokens[0].text:
        yield f"{result.request_id}: {result.attempt} follows another attempt and does not say so"
    if len(tokens) != result.last_seq + 1 or "".join(one.text for one in tokens) != result.output:
        yield f"{result.request_id}: the tokens of {result.attempt} are not the result's text"
    if hashlib.sha256(result.output.encode()).hexdigest() != result.text_sha256:
        yield f"{result.request_id}: the text has another hash than the result says"
