"""The journals of a lane's runs: written as they go on, and read where another owner began them."""

from __future__ import annotations

from functools import partial

from millstream.agents.loop.calls import Calls
from millstream.schemas.errors import Terminal
from millstream.schemas.events import AttemptStarted, SessionUpdated
from millstream.schemas.journal.steps import JournalStep, RunBegan
from millstream.schemas.ports import CommitStep
from millstream.schemas.runs.reservations import NextCall
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.output.run_journal import RunJournal
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.runs.admission import TemplateRef, told_of_repair
from millstream.streams.lane.runs.reserving import AttemptReservations
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.state.attempt_costs import cost_micros
from millstream.streams.lane.state.journals import OpenJournal
from millstream.streams.lane.state.lane_state import LaneState

__all__ = ["RunJournals"]


class RunJournals:
    """Gives runs what their journals hold, and what writes them."""

    def __init__(self, state: LaneState, writer: LaneWriter, services: LaneServices) -> None:
        self._state = state
        self._writer = writer
        self._factory = services.factory
        self._recalled = services.metrics.runs_recalled

    async def recall(self, run: Run) -> Terminal | None:
        """Give a run the calls that its journal tells of, unless they are at hand.

        Gives why the run cannot go on, where its journal cannot be read. Raises `LaneLost`.
        """
        if not run.calls.is_new:
            return None
        journal = await self._known(run)
        if journal is None:
            return None
        try:
            steps = await self._writer.journals.load(run.key, journal)
            calls = Calls.recorded(steps)
        except Terminal as error:
            self._recalled.labels(outcome="failed").inc()
            return error
        self._recalled.labels(outcome="read").inc()
        calls.begun_anew = run.calls.begun_anew
        if run.repairs > calls.repairs_recorded and run.calls.repair is not None:
            # The newest one is not written down yet.
            calls.repair = run.calls.repair
        elif calls.repair is not None:
            if run.calls.repair is None:
                run.admission = told_of_repair(run.admission)
            run.repairs = calls.repairs_recorded
        run.calls = calls
        return None

    def lacks(self, run: Run) -> TemplateRef | None:
        """Give what a run has to wait for whose recorded calls are of tools that are not here."""
        if not (awaited := run.calls.awaited):
            return None
        template = run.plan.template
        missing = self._factory.missing(template, awaited)
        return TemplateRef(template.name, template.version, missing) if missing else None

    async def _known(self, run: Run) -> OpenJournal | None:
        known = self._state.journals.open.get(run.key)
        begins_at, steps = run.journalled
        if not steps or (known is not None and not known.begins_at):
            return known
        # It waited for longer than the lane reads back.
        if begins_at is None:
            return known or OpenJournal(steps)
        found = await self._writer.journals.find(run.key, begins_at)
        found.steps = max(found.steps, steps)
        self._state.journals.open[run.key] = found
        return found

    def of(
        self,
        run: Run,
        head: SessionUpdated | None,
        started: AttemptStarted | None,
        reserving: AttemptReservations | None,
    ) -> CommitStep:
        """Give what commits the steps of a run, which goes on from a session's head.

        What its next calls may cost is committed with them, as `reserving` says; what its last ones
        did cost stands on them, if the attempt has a mark, `started`.
        """
        if run.journal is None:
            known = self._state.journals.open.get(run.key)
            template, absent = run.plan.template, self._factory.tools.absent
            run.journal = RunJournal(
                self._writer,
                began=RunBegan(
                    template=template.name,
                    template_version=template.version,
                    tools=tuple(one for one in run.plan.tools if one not in absent),
                    base_checkpoint_id=None if head is None else head.checkpoint_id,
                ),
                steps=0 if known is None else known.steps,
                traceparent=run.traceparent,
            )
        journal = run.journal

        async def commit(fact: JournalStep, *, next_call: NextCall | None = None) -> None:
            if fact.used and started is not None and started.reserved_micros:
                cost = cost_micros(self._state.pipeline, started, fact.used)
                fact = fact.model_copy(update={"cost_micros": cost})
            if reserving is None or next_call is None:
                await journal.commit(fact)
            else:
                await journal.commit(fact, partial(reserving.ahead, next_call))

        return commit
