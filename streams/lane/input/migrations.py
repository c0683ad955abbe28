"""The desk where a lane moves runs that wait to another version of their template.

A move is one transaction: the run's record on `parked` with the version, a step of its journal
where it has one, and the answer. Until it is decided nothing changes, so a command that is cut off
is decided by whoever reads it next.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import structlog

from millstream.agents.loop.journal.fits import NewVersion, misfit
from millstream.agents.loop.journal.moves import MOVED
from millstream.schemas.base import Address, Event, Reason
from millstream.schemas.control.migrations import RunMigration, RunMigrationAnswered
from millstream.schemas.errors import Terminal, UnknownTemplate
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.lane_events import RunParked
from millstream.schemas.reasons import reason_of
from millstream.schemas.runs.migration import (
    JournalUnfit,
    MigrationRefused,
    MigrationTooLarge,
    RunEnded,
    RunUnderWay,
    RunUnknown,
    VersionOther,
    VersionSame,
    VersionUnknown,
)
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.output.in_flight import InFlightRequests
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.queue.run_queue import RunQueue
from millstream.streams.lane.queue.session_queues import SessionQueues
from millstream.streams.lane.queue.waiting_line import Ticket
from millstream.streams.lane.runs.admission import TemplateRef, admit
from millstream.streams.lane.runs.journalling import RunJournals, began_with
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.transactions.committer import CommitRefused
from millstream.streams.wire.keys import RequestKey
from millstream.streams.wire.records import InputRecord
from millstream.streams.wire.trace import Trace

__all__ = ["MigrationDesk"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A run that waits: its ticket, and its record as it stands."""

    ticket: Ticket
    parked: RunParked
    traceparent: Trace

    @property
    def version(self) -> str | None:
        """The version of its template that it keeps."""
        if self.parked.template_version is not None or self.parked.undecided:
            return self.parked.template_version
        return self.parked.decision.template_version


@dataclass(frozen=True, slots=True)
class _Refused:
    """The run stays as it is; `run` is what is known of it."""

    reason: Reason
    run: _Waiting | None = None


@dataclass(frozen=True, slots=True)
class _Move:
    """A move that may be made in this tick: the run, its new record, and what goes with it."""

    run: _Waiting
    parked: RunParked
    steps: tuple[JournalStep, ...]


class MigrationDesk:
    """Decides on the moves of one lane's waiting runs; those of one run in the order of the log.

    Where this worker lacks the version, a command waits for it, as requests wait for a template
    that nobody has, and the group is told.
    """

    def __init__(
        self,
        context: LaneContext,
        *,
        state: LaneState,
        writer: LaneWriter,
        in_flight: InFlightRequests,
        queue: RunQueue,
    ) -> None:
        self._context = context
        self._services = context.services
        self._state = state
        self._writer = writer
        self._in_flight = in_flight
        self._queue = queue
        self._journals = RunJournals(state, writer, context.services)
        self._runs = SessionQueues(context.fail)
        self.lacking: Counter[TemplateRef] = Counter()
        """The versions that runs are to move to and this worker lacks, and how many runs are."""

    async def close(self) -> None:
        """Cancel everything; nothing is committed any more."""
        await self._runs.cancel()

    def take(self, entry: Entry[InputRecord], command: RunMigration, first: Address) -> None:
        """Take a command, whose record first stood at `first`."""
        key = (command.tenant, command.user_id, command.request_id)
        guard, address = self._context.crash_counter.guard, entry.record.address
        self._runs.submit(key, lambda: guard(address, self._handle(entry, command, first)))

    async def _handle(
        self, entry: Entry[InputRecord], command: RunMigration, first: Address
    ) -> None:
        if not self._state.is_obeyed(command, first):
            await self._carry_out(command, first)
        entry.finish()

    async def _carry_out(self, command: RunMigration, first: Address) -> None:
        decided = await self._decide(command)
        if isinstance(decided, _Refused):
            await self._writer.commit([self._answer(command, first, decided)])
            return
        answer = self._answer(command, first, decided)
        run = decided.run
        if command.dry_run:
            await self._writer.commit([answer], run.traceparent)
            return
        events: tuple[Event, ...] = (*decided.steps, answer)
        try:
            # In the tick in which it was decided: nobody has called the run up meanwhile.
            await self._queue.replace(run.ticket, decided.parked, run.traceparent, *events)
        except CommitRefused as refused:
            reason = reason_of(MigrationTooLarge(str(refused)))
            await self._writer.commit([self._answer(command, first, _Refused(reason, run))])
            return
        log.info(
            "a run goes on with another version",
            request_id=command.request_id,
            template=run.parked.request.template,
            version=command.to_version,
            was=run.version,
        )

    def _answer(
        self, command: RunMigration, first: Address, decided: _Refused | _Move
    ) -> RunMigrationAnswered:
        run = decided.run
        return RunMigrationAnswered(
            tenant=command.tenant,
            user_id=command.user_id,
            at_ms=self._services.clock_ms(),
            request_id=command.request_id,
            session_id=None if run is None else run.parked.session_id,
            template=None if run is None else run.parked.request.template,
            from_version=None if run is None else run.version,
            to_version=command.to_version,
            dry_run=command.dry_run,
            moved=isinstance(decided, _Move),
            refused=decided.reason if isinstance(decided, _Refused) else None,
            source=first,
        )

    async def _decide(self, command: RunMigration) -> _Refused | _Move:
        """Decide on the run as it stands; what is given holds in the tick in which it is given."""
        key = (command.tenant, command.user_id, command.request_id)
        while True:
            run = await self._waiting(key)
            if isinstance(run, MigrationRefused):
                return _Refused(reason_of(run))
            stands_at = run.ticket.stands_at
            if (other := _other_version(command, run)) is not None:
                return _Refused(reason_of(other), run)
            wanted = TemplateRef(run.parked.request.template, command.to_version)
            if not await self._has(wanted):
                return _Refused(reason_of(self._lacks(wanted)), run)
            try:
                decided = await self._fitting(command, run)
            except UnknownTemplate:
                continue  # it went as it came
            except Terminal as refused:
                decided = _Refused(reason_of(refused), run)
            # It may have begun, ended or been moved meanwhile.
            if not run.ticket.gone and run.ticket.stands_at is stands_at:
                return decided

    async def _waiting(self, key: RequestKey) -> _Waiting | MigrationRefused:
        while True:
            found = self._queue.find(key)
            if not isinstance(found, Ticket):
                return self._not_waiting(key, is_here=found is not None)
            stands_at = found.stands_at
            read = await self._queue.read(found)
            if found.gone or found.stands_at is not stands_at:
                continue
            if read is None:
                return RunUnknown(
                    f"request {key[2]!r} waits, and this worker cannot read its record: see its "
                    "log; a worker of a newer version of Millstream may"
                )
            return _Waiting(found, *read)

    def _not_waiting(self, key: RequestKey, *, is_here: bool) -> MigrationRefused:
        if is_here:
            return RunUnderWay(
                f"request {key[2]!r} is running now, or about to: pause it (`millstream pause`), "
                "then move it and resume it"
            )
        if self._in_flight.is_finished(key) or self._in_flight.is_registered(key):
            return RunEnded(
                f"request {key[2]!r} has ended, or ends now: `millstream history --request` shows "
                "how"
            )
        return RunUnknown(
            f"no request {key[2]!r} of this user waits: `millstream runs list` shows those that do"
        )

    async def _has(self, wanted: TemplateRef) -> bool:
        """Tell whether this worker has a version; waits for it where it does not."""
        factory, settings = self._services.factory, self._context.settings
        if factory.has(wanted.name, wanted.version):
            return True
        changed = asyncio.Event()
        forget = factory.on_change(changed.set)
        self.lacking[wanted] += 1
        try:
            async with asyncio.timeout(
                min(settings.template_unknown_wait_s, settings.template_wait_s)
            ):
                while not factory.has(wanted.name, wanted.version):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            pass
        finally:
            forget()
            self.lacking[wanted] -= 1
        return factory.has(wanted.name, wanted.version)

    def _lacks(self, wanted: TemplateRef) -> VersionUnknown:
        factory = self._services.factory
        why_not = self._services.group_templates.why_not(wanted.name, wanted.version)
        if why_not is not None:
            return VersionUnknown(f"{wanted.told} cannot be run by this worker: {why_not}")
        there = sorted(version for name, version in factory.offers if name == wanted.name)
        known = f"it has {', '.join(map(repr, there))}" if there else "it has none of that template"
        return VersionUnknown(
            f"the worker of this run has no {wanted.told}, and none came; {known}. Start a worker "
            "that has it, or apply it, then give the command again"
        )

    async def _fitting(self, command: RunMigration, run: _Waiting) -> _Refused | _Move:
        """Give the move if the run fits the version. Raises `Terminal` where it cannot be told."""
        parked, factory = run.parked, self._services.factory
        admission = admit(
            parked.request,
            self._state,
            factory,
            input_bytes_max=self._context.settings.input_bytes_max,
            # A refusal where nothing is decided yet: so nothing is decided here either.
            decided=parked.decision,
            version=command.to_version,
        )
        plan, context = admission.plan, admission.context
        if admission.lacks is not None:
            raise UnknownTemplate(admission.lacks.told)
        if plan is None or context is None:
            return _Refused(admission.refused or admission.made.reason or _NO_PLAN, run)
        if (forbidden := self._state.pipeline.forbids(context)) is not None:
            raise forbidden
        journalled = (parked.journal_from, parked.journal_steps)
        steps = await self._journals.steps(run.ticket.key, journalled)
        version = NewVersion(plan.template, plan.tools, factory.tools)
        why = misfit(
            steps,
            version,
            forgotten=() if steps else parked.effects,
            repairs=parked.repair is not None,
        )
        if why is not None:
            raise JournalUnfit(why)
        now_ms = self._services.clock_ms()
        changes = {"template_version": command.to_version, "waits_for": None, "at_ms": now_ms}
        if not steps:
            return _Move(run, parked.model_copy(update=changes), ())
        first = next((one.began for one in steps if one.began is not None), None)
        moved = JournalStep(
            tenant=parked.tenant,
            user_id=parked.user_id,
            request_id=parked.request_id,
            session_id=parked.session_id,
            at_ms=now_ms,
            # Of the newest attempt that wrote: a move is none, and leaves what each counts at.
            attempt=steps[-1].attempt,
            step=len(steps),
            kind=MOVED,
            began=began_with(
                plan,
                factory,
                moved_from=run.version,
                base_checkpoint_id=None if first is None else first.base_checkpoint_id,
            ),
        )
        known = self._state.journals.open.get(run.ticket.key)
        if known is not None and known.begins_from is not None:
            changes["journal_from"] = known.begins_from
        changes["journal_steps"] = len(steps) + 1
        return _Move(run, parked.model_copy(update=changes), (moved,))


_NO_PLAN = Reason(code="rejected", message="the request cannot be planned with that version")


def _other_version(command: RunMigration, run: _Waiting) -> MigrationRefused | None:
    is_at, name = run.version, command.request_id
    if is_at is None:
        return VersionOther(
            f"request {name!r} has no version yet: it gets the newest of its template once a "
            "worker has it"
        )
    if is_at == command.to_version:
        return VersionSame(f"request {name!r} is at version {is_at!r} already: nothing to do")
    if command.from_version is not None and command.from_version != is_at:
        return VersionOther(
            f"request {name!r} is at version {is_at!r}, not {command.from_version!r}: leave "
            "--from out, or name that one"
        )
    return None
