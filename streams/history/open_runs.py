"""The runs that are open: taken on and without a result, each with what keeps it from going on.

They are told from what lanes write for those after them. A run that takes longer than
`park_after_s`, or waits, stands on `parked`; one that is younger has its decision alone. No worker
is asked, so it is known also where none is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, Literal

from millstream.schemas.base import Count, EpochMs, Frozen, Names, Reason, Tries
from millstream.schemas.control.migrations import RunMigrationAnswered
from millstream.schemas.events import AgentResult, AttemptStarted, Decision, RequestEvent
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.lane_events import HoldPlaced, TemplateWait
from millstream.schemas.topics import (
    ATTEMPTS,
    DECISIONS,
    HOLDS,
    JOURNAL,
    PARKED,
    RESULTS,
    RUN_MIGRATION_ANSWERS,
)
from millstream.streams.bus.api import EVERYTHING, Delivery, EventFilter
from millstream.streams.bus.record_log import RecordLog
from millstream.streams.history.compacted_log import newest_of
from millstream.streams.history.replay import HistoryQuery, replay
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode, require_known_version
from millstream.streams.wire.keys import RequestKey, request_key
from millstream.streams.wire.records import LogRecord

__all__ = [
    "RUN_STATES",
    "OpenRun",
    "OpenRuns",
    "RunRecords",
    "RunState",
    "records_of_run",
    "runs_lacking",
    "runs_open",
]

RunState = Literal["lacking", "paused", "retrying", "running", "waiting"]
"""What a run is doing: it lacks its template, a version or tools; it is paused; it waits for its
next attempt; an attempt has begun; it waits for its turn."""

RUN_STATES: Final[tuple[RunState, ...]] = ("lacking", "paused", "retrying", "running", "waiting")

_ATTEMPTS_BACK_MS: Final = 600_000
"""So far back it is looked for attempts and steps of all open runs."""

_YOUNG_MS: Final = 60_000
"""A run that is older, and on its way, is on `parked`: see `park_after_s`."""


class _Asked(Frozen):
    template: str = ""
    at_ms: EpochMs = 0
    deadline_ms: EpochMs | None = None


class _Decided(Frozen):
    template_version: str | None = None


class _Parked(RequestEvent):
    """A `RunParked` without what takes long to read."""

    request: _Asked
    decision: _Decided
    undecided: bool = False
    order: Count
    template_version: str | None = None
    waits_for: TemplateWait | None = None
    tries: Tries = 0
    failures: Tries = 0
    failure: Reason | None = None
    not_before_ms: EpochMs = 0
    effects: Names = ()
    journal_steps: Tries = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run that has no result yet; times are in milliseconds since the epoch.

    Attributes:
        state: What it is doing.
        why: What it waits for, in words.
        since_ms: Since when it is so, `None` where that is not known.
        asked_at_ms: When its request arrived.
        template_version: The version that it keeps, `None` while none is decided on.
        attempt: The number of its newest attempt that cost or may have an effect.
        failures: How many attempts failed; `failure` is why the newest did.
        steps: How many steps its journal has, as far as was looked.
        order: Where it stands among those of its session.
    """

    tenant: str
    user_id: str
    session_id: str
    request_id: str
    template: str
    template_version: str | None
    state: RunState
    why: str
    since_ms: int | None
    asked_at_ms: int
    deadline_ms: int | None = None
    waits_for: TemplateWait | None = None
    attempt: int | None = None
    failures: int = 0
    failure: Reason | None = None
    steps: int = 0
    order: int = 0

    @property
    def key(self) -> RequestKey:
        """What makes its request one and the same."""
        return (self.tenant, self.user_id, self.request_id)


@dataclass(frozen=True, slots=True)
class OpenRuns:
    """Open runs, those that were asked for first in front, and how many could not be read."""

    runs: tuple[OpenRun, ...]
    unreadable: int = 0


@dataclass(slots=True)
class _Heard:
    """What the topics of single facts tell of runs."""

    decided: dict[RequestKey, Decision]
    attempts: dict[RequestKey, AttemptStarted]
    steps: dict[RequestKey, JournalStep]
    times: dict[RequestKey, int]
    ended: set[RequestKey]

    def take(self, event: object, at_ms: int) -> None:
        if not isinstance(event, RequestEvent):
            return
        key = request_key(event)
        match event:
            case Decision():
                self.decided[key] = event
                if not event.admitted:
                    self.ended.add(key)
            case AttemptStarted():
                self.attempts[key] = event
                self.times[key] = at_ms
            case JournalStep(renewed_ms=None):
                self.steps[key] = event
                self.times.setdefault(key, at_ms)
            case AgentResult():
                self.ended.add(key)
            case _:
                pass


async def runs_open(
    log: RecordLog, settings: Settings, wanted: EventFilter, *, now_ms: int
) -> OpenRuns:
    """Give the open runs of a user, a session, or of all.

    The log need not be started. Raises `ServiceUnavailable`, and `Misconfigured` for a topic that
    does not exist.
    """
    parked, unreadable = await newest_of(log, settings, PARKED, wanted, _parked)
    holds, _ = await newest_of(log, settings, HOLDS, wanted, lambda one: decode(one, HoldPlaced))
    heard = _Heard({}, {}, {}, {}, set())
    # Results last: what is found open in the other topics and has ended since is on them.
    for topics, since_ms in (
        ((ATTEMPTS, JOURNAL), now_ms - _ATTEMPTS_BACK_MS),
        ((DECISIONS, RESULTS), now_ms - _YOUNG_MS),
    ):
        query = HistoryQuery(topics=topics, wanted=wanted, since_ms=since_ms)
        async with aclosing(replay(log, settings, query)) as entries:
            async for entry in entries:
                if isinstance(entry, Delivery):
                    heard.take(entry.event, entry.at_ms)
    runs = [_of_parked(one, holds, heard, now_ms) for one in parked if wanted.matches(one)]
    known = {one.key for one in runs}
    runs += (_young(one) for key, one in heard.decided.items() if key not in known)
    is_open = [one for one in runs if one.key not in heard.ended]
    is_open.sort(key=lambda one: (one.asked_at_ms, one.order, one.key))
    return OpenRuns(tuple(_behind_others(is_open)), unreadable)


async def runs_lacking(log: RecordLog, settings: Settings) -> tuple[TemplateWait, ...]:
    """Give what each run was last set aside for that lacks its template, a version or tools.

    Only `parked` is read. A run that has found it since, and runs, is among them until it ends or
    is set aside anew. The log need not be started. Raises as `runs_open`.
    """
    parked, _ = await newest_of(log, settings, PARKED, EVERYTHING, _parked)
    return tuple(one.waits_for for one in parked if one.waits_for is not None)


@dataclass(frozen=True, slots=True)
class RunRecords:
    """What the log has of one request: its newest decision, attempts, journal and result.

    `moves` are those to another version of its template.
    """

    decision: Decision | None
    attempts: tuple[AttemptStarted, ...]
    steps: tuple[JournalStep, ...]
    result: AgentResult | None
    moves: tuple[RunMigrationAnswered, ...] = ()


async def records_of_run(
    log: RecordLog, settings: Settings, wanted: EventFilter, *, since_ms: int | None
) -> RunRecords:
    """Give what the log has of the request of `wanted`, from `since_ms` on. Raises as `runs_open`.

    Of a step in several records the first is given.
    """
    decision: Decision | None = None
    result: AgentResult | None = None
    attempts: list[AttemptStarted] = []
    steps: dict[int, JournalStep] = {}
    moves: list[RunMigrationAnswered] = []
    topics = (DECISIONS, ATTEMPTS, JOURNAL, RUN_MIGRATION_ANSWERS, RESULTS)
    query = HistoryQuery(topics=topics, wanted=wanted, since_ms=since_ms)
    async with aclosing(replay(log, settings, query)) as entries:
        async for entry in entries:
            match entry.event if isinstance(entry, Delivery) else None:
                case Decision() as decision:
                    pass
                case AttemptStarted() as attempt:
                    attempts.append(attempt)
                case JournalStep() as step:
                    steps.setdefault(step.step, step)
                case AgentResult() as result:
                    pass
                case RunMigrationAnswered(moved=True, dry_run=False) as move:
                    moves.append(move)
                case _:
                    pass
    return RunRecords(decision, tuple(attempts), tuple(steps.values()), result, tuple(moves))


def _parked(record: LogRecord) -> _Parked:
    head = _Parked.model_validate_json(record.value or b"")
    require_known_version(head.schema_version)
    return head


def _of_parked(parked: _Parked, holds: Iterable[HoldPlaced], heard: _Heard, now_ms: int) -> OpenRun:
    key = request_key(parked)
    attempt, step = heard.attempts.get(key), heard.steps.get(key)
    version = parked.template_version
    if version is None and not parked.undecided:
        version = parked.decision.template_version
    run = OpenRun(
        tenant=parked.tenant,
        user_id=parked.user_id,
        session_id=parked.session_id,
        request_id=parked.request_id,
        template=parked.request.template,
        template_version=version,
        state="waiting",
        why="waits for its turn, or an attempt of it began more than 10 min ago",
        since_ms=parked.at_ms,
        asked_at_ms=parked.request.at_ms,
        deadline_ms=parked.request.deadline_ms,
        waits_for=parked.waits_for,
        attempt=None if attempt is None else attempt.attempt,
        failures=parked.failures,
        failure=parked.failure,
        steps=max(parked.journal_steps, 0 if step is None else step.step + 1),
        order=parked.order,
    )
    hold = next((one for one in holds if _holds(one, parked)), None)
    if hold is not None:
        what = "its session is paused" if hold.request_id is None else "it is paused"
        return replace(run, state="paused", why=what, since_ms=hold.at_ms)
    if (wanted := parked.waits_for) is not None:
        return replace(run, state="lacking", why=_lacks(wanted), since_ms=wanted.since_ms)
    if parked.not_before_ms > now_ms:
        failure = parked.failure
        told = "" if failure is None else f"; the last failed, {failure.code}: {failure.message}"
        return replace(run, state="retrying", why=f"waits for its next attempt{told}")
    if attempt is not None:
        told = f"attempt {attempt.attempt} on {attempt.model}"
        return replace(run, state="running", why=told, since_ms=heard.times[key])
    # A move is no sign that somebody works on it.
    if step is not None and step.kind != "moved":
        told = f"attempt {step.attempt}, step {step.step} of its journal"
        return replace(run, state="running", why=told, since_ms=heard.times[key])
    return run


def _holds(hold: HoldPlaced, parked: _Parked) -> bool:
    if (hold.tenant, hold.user_id) != (parked.tenant, parked.user_id):
        return False
    if hold.request_id is not None:
        return hold.request_id == parked.request_id
    return hold.session_id == parked.session_id


def _lacks(wanted: TemplateWait) -> str:
    template = f"template {wanted.template!r}"
    if wanted.version is None:
        return f"waits for a worker that has {template}"
    template += f", version {wanted.version!r}"
    if wanted.tools:
        template += f", with {', '.join(wanted.tools)}, of which its journal has an unanswered call"
    return f"waits for a worker that has {template}"


def _young(decision: Decision) -> OpenRun:
    return OpenRun(
        tenant=decision.tenant,
        user_id=decision.user_id,
        session_id=decision.session_id,
        request_id=decision.request_id,
        template=decision.template or "",
        template_version=decision.template_version,
        state="running",
        why="was taken on within the last minute, and has not waited yet",
        since_ms=decision.at_ms,
        asked_at_ms=decision.at_ms,
    )


def _behind_others(runs: Iterable[OpenRun]) -> Iterable[OpenRun]:
    """Say of each run that waits for its turn which run of its session it waits behind."""
    first: dict[tuple[str, str, str], OpenRun] = {}
    for one in runs:
        session = (one.tenant, one.user_id, one.session_id)
        before = first.setdefault(session, one)
        if before is not one and one.state == "waiting":
            told = f"waits behind {before.request_id} of its session, which is {before.state}"
            yield replace(one, why=told)
        else:
            yield one
