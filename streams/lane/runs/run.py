"""A run: an admitted request on its way to its one result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from millstream.agents.attempt import RunOutcome
from millstream.agents.factory import RunPlan
from millstream.agents.loop.calls import Calls
from millstream.middleware.base import AttemptUsage
from millstream.schemas.base import NO_USAGE, CallUsage, Reason, Usage
from millstream.schemas.events import AttemptStarted, ResolvedRequest
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.output.outcomes import CutOff
from millstream.streams.lane.output.run_journal import RunJournal
from millstream.streams.lane.runs.admission import Admission
from millstream.streams.wire.keys import RequestKey, SessionKey, request_key, session_key
from millstream.streams.wire.records import InputRecord
from millstream.streams.wire.trace import Trace


@dataclass(slots=True)
class ActiveTime:
    """How long a request has been under way: its attempts, and the waits between them, in ms.

    Not the time in which it waits in line or is paused. While it is counted, its start is what is
    written down: so the next owner counts on from there, also the time in which there was none.

    `since_ms` is when it would have been started had it never stood still, 0 while it stands still;
    then `elapsed_ms` is what it counted.
    """

    elapsed_ms: int = 0
    since_ms: int = 0

    def start(self, at_ms: int) -> None:
        """Count on, if it stands still."""
        if not self.since_ms:
            self.since_ms = at_ms - self.elapsed_ms

    def stop(self, at_ms: int) -> None:
        """Stand still, if it counts; `at_ms` may lie ahead, at the end of a wait that counts."""
        if self.since_ms:
            self.elapsed_ms = max(0, at_ms - self.since_ms)
            self.since_ms = 0


@dataclass(slots=True, eq=False)
class Run:
    """A run that is in memory: under way, or behind another one of its session.

    `order` is the offset of its record. `entry` is that record until it is acknowledged; a run
    that was parked has none. `decided` is done once its decision is committed, `parked` gives
    the offset of its newest record on `parked`, which tells of `parked_progress`, `ended` is
    done once its result is committed. `may_follow`: an earlier attempt may have shown tokens.
    `tries` counts the attempts begun, `failures` those in vain, `spent` is what these used and was
    not charged for yet, since it costs nothing, `last` is what the newest of them left behind, and
    `failure` why that one failed, also if it was not made here.
    `lacks_since_ms` is since when it waits for its template, where it does.
    `under_way` counts towards a template's `request_timeout_s`, and only where there is one.
    `repairs` counts the answers that did not fit their schema and are given anew.
    `calls` are those that its attempts made, `journal` is what writes them down, once one begins.
    `journalled` is from where on its journal stands, and how many steps it had when it was parked;
    `journal_ms` is when it began, `None` where it has none, 0 where that is not known.
    `due` is what an attempt used whose end is not committed yet.
    `model_is_chosen`: it is known which of its models is to be asked first.
    `models_failed` are those that did since the first of them was asked, and why;
    `model_may_recover`: one of these in a way that may pass.
    `ending`: its outcome is on its way to the log, so it must not be parked any more.
    `cause` is why its next attempt follows, as `RunTelling` keeps it.
    `in_memory_since` is the loop's time. `key` is what makes the request one and the same,
    `session` what runs are serial by.
    """

    request: ResolvedRequest
    admission: Admission
    traceparent: Trace
    order: int
    entry: Entry[InputRecord] | None = None
    decided: asyncio.Future[Any] | None = None
    may_follow: bool = False
    tries: int = 0
    failures: int = 0
    repairs: int = 0
    spent: tuple[CallUsage, ...] = ()
    not_before_ms: int = 0
    lacks_since_ms: int = 0
    under_way: ActiveTime = field(default_factory=ActiveTime)
    cancelled: CutOff | None = None
    last: RunOutcome | None = None
    failure: Reason | None = None
    calls: Calls = field(default_factory=Calls)
    due: AttemptUsage | None = None
    ending: bool = False
    cause: object = None
    journal: RunJournal | None = None
    journalled: tuple[int | None, int] = (None, 0)
    journal_ms: int | None = None
    model_is_chosen: bool = False
    models_failed: dict[str, Reason] = field(default_factory=dict)
    model_may_recover: bool = False
    executing: asyncio.Task[Any] | None = None
    parked: asyncio.Future[int] | None = None
    parked_progress: tuple[int, ...] = ()
    in_memory_since: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    ended: asyncio.Future[None] = field(default_factory=asyncio.Future)
    key: RequestKey = field(init=False)
    session: SessionKey = field(init=False)

    def __post_init__(self) -> None:
        """Keep what is asked for again and again."""
        self.key = request_key(self.request)
        self.session = session_key(self.request)

    @property
    def template(self) -> str:
        """The name of the template that it was asked of."""
        return self.request.template

    @property
    def plan(self) -> RunPlan:
        """What it will use."""
        plan = self.admission.plan
        assert plan is not None  # noqa: S101  what is not refused has a plan
        return plan

    @property
    def spent_usage(self) -> Usage:
        """What its attempts used in all that were not charged for yet."""
        return sum((one.usage for one in self.spent), NO_USAGE)

    @property
    def progress(self) -> tuple[int, ...]:
        """How far it is: what its record on `parked` must tell of it."""
        made = len(self.calls.with_effect)
        steps = self.journalled[1] if self.journal is None else self.journal.steps
        lacks_since_ms = 0 if self.admission.lacks is None else self.lacks_since_ms
        counted = (self.tries, self.repairs, made, steps, lacks_since_ms)
        return (*counted, self.under_way.elapsed_ms, self.under_way.since_ms)

    @property
    def ends_by_ms(self) -> int | None:
        """When its template's time limit is reached if it stays under way; `None`: never."""
        limit_s = self.plan.template.request_timeout_s
        return None if limit_s is None else self.under_way.since_ms + round(limit_s * 1000)

    @property
    def is_kept(self) -> bool:
        """Whether its record on `parked`, committed or on its way, tells how far it is."""
        return self.parked is not None and self.parked_progress == self.progress

    def is_over_by(self, at_ms: int) -> bool:
        """Tell whether its template's time limit is reached at `at_ms`."""
        return self.ends_by_ms is not None and self.ends_by_ms <= at_ms

    def used(
        self,
        attempt: int,
        begun: AttemptStarted | None = None,
        outcome: RunOutcome | None = None,
        *,
        called: bool = False,
    ) -> AttemptUsage:
        """Give what an attempt used, and what earlier ones did that is not charged for.

        One that was `called` and gave no outcome was cut off: its calls are counted all the same,
        as far as it had begun to.
        """
        plan = self.admission.plan
        calls = () if outcome is None else outcome.calls
        known = not called if outcome is None else outcome.usage_known
        if called and not known and self.calls.meter is not None:
            calls, known = self.calls.meter.close(), True
        if outcome is not None and not calls and not outcome.result.usage.is_none:
            calls = (CallUsage(outcome.result.usage, calls=0),)
        calls = (*self.spent, *calls)
        return AttemptUsage(
            attempt=attempt,
            model=plan.model if plan else None,
            template=plan.template.name if plan else self.request.template,
            usage=sum((one.usage for one in calls), NO_USAGE),
            usage_known=known,
            calls=calls,
            started=begun,
        )

    def is_cancelled(self) -> bool:
        """Whether its user wants it to end, or its session has ended."""
        return self.cancelled is not None
