"""A single attempt of a run: its agent is run once, whatever its own code does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Final, TypeVar

import structlog

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import nothing_to_load
from millstream.agents.loop.containment import is_cancelled_from_outside
from millstream.schemas.base import FrozenDict
from millstream.schemas.errors import LaneLost, Suspended
from millstream.schemas.events import AgentResult, AttemptStarted, SessionUpdated
from millstream.schemas.ports import LoadCheckpoint
from millstream.schemas.reasons import reason_of
from millstream.schemas.topics import TOKENS
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.output.outcomes import CutOff
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.runs.journalling import RunJournals
from millstream.streams.lane.runs.reserving import AttemptReservations
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.runs.telling.step_publisher import StepPublisher
from millstream.streams.lane.runs.telling.token_publisher import TokenPublisher
from millstream.streams.lane.runs.verdicts import written
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.pauses import Pauses

__all__ = ["AttemptRunner", "cancellable"]

T = TypeVar("T")

_NOTHING_SAID: Final = FrozenDict()

_log = structlog.get_logger(__name__)


class AttemptRunner:
    """Runs single attempts of one lane's runs; which of them stands, it does not decide."""

    def __init__(
        self, context: LaneContext, *, state: LaneState, writer: LaneWriter, pauses: Pauses
    ) -> None:
        self._context = context
        self._services = context.services
        self._state = state
        self._writer = writer
        self._pauses = pauses
        self.journals = RunJournals(state, writer, context.services)

    def number(self, run: Run) -> int:
        """Give the number of a run's next attempt, or of the one under way."""
        return self._state.attempt(run.tries)

    def tokens(self, run: Run) -> TokenPublisher:
        """Give where the tokens of an attempt go."""
        return TokenPublisher(
            self._services.producer,
            topic=self._context.settings.topic(TOKENS.name),
            partition=self._context.partition,
            source=self._writer.source,
            traceparent=run.traceparent,
        )

    async def run(
        self,
        run: Run,
        tokens: TokenPublisher,
        head: SessionUpdated | None,
        steps: StepPublisher | None,
        *,
        started: AttemptStarted | None,
    ) -> RunOutcome | None:
        """Run the agent once; gives `None` if the run was cancelled. Raises `LaneLost`.

        `started` is the attempt's mark, if it has one.
        """
        await self._writer.sessions.recall(run.session)
        metadata = self._session_metadata(run)
        load_checkpoint: LoadCheckpoint = nothing_to_load
        if head is not None:
            load_checkpoint = partial(self._writer.load_checkpoint, head)

        reserving = self._reserving(run, started)
        commit_step = self.journals.of(run, head, started, reserving)

        async def run_agent() -> RunOutcome:
            # What runs agents is not always the executor. Caught here, inside the task: one step
            # further out, a `SystemExit` has ended the loop.
            task = asyncio.current_task()
            try:
                return await self._services.run_agent(
                    run.request,
                    run.plan,
                    attempt=self.number(run),
                    load_checkpoint=load_checkpoint,
                    emit=tokens.write,
                    announce=run.tries > 0 or run.may_follow,
                    before_call=partial(self._before_call, run),
                    ends_by_ms=run.ends_by_ms,
                    calls=run.calls,
                    emit_step=None if steps is None else steps.write,
                    steps_from=0 if steps is None else steps.next_seq,
                    session_metadata=metadata,
                    commit_step=commit_step,
                    reserve_call=None if reserving is None else reserving.reserve,
                )
            except (LaneLost, asyncio.CancelledError):
                raise
            except BaseException as error:
                if is_cancelled_from_outside(task, error):
                    raise
                return self._broken(run, tokens, error)

        # That of an earlier attempt is charged for already.
        run.calls.meter = None
        with self._services.metrics.runs_in_flight.track_inprogress():
            try:
                return await cancellable(run, run_agent())
            except asyncio.CancelledError as error:
                if is_cancelled_from_outside(asyncio.current_task(), error):
                    raise
                return self._broken(run, tokens, error)

    def cut_off(self, run: Run, tokens: TokenPublisher) -> AgentResult:
        """Give the result of a run that was cancelled, behind what its attempt has written."""
        how = run.cancelled
        assert how is not None  # noqa: S101  only such a run comes here
        return written(run, tokens, how, attempt=self.number(run), at_ms=self._services.clock_ms())

    def _reserving(self, run: Run, started: AttemptStarted | None) -> AttemptReservations | None:
        """Give what reserves an attempt's calls, `None` where that is not to be done."""
        context = run.admission.context
        if started is None or not started.reserved_micros:
            return None
        if context is None or context.first_call is None:
            return None
        return AttemptReservations(
            self._state.pipeline,
            self._writer,
            context=context,
            started=started,
            traceparent=run.traceparent,
        )

    def _session_metadata(self, run: Run) -> Mapping[str, str]:
        state = self._state.session_states.get(run.session)
        return _NOTHING_SAID if state is None else state.metadata

    async def _before_call(self, run: Run) -> None:
        await self._context.before_call()
        if self._pauses.is_paused(run.key, run.session):
            message = "the request or its session is paused"
            raise Suspended(message)

    def _broken(self, run: Run, tokens: TokenPublisher, error: BaseException) -> RunOutcome:
        """Give the outcome of an attempt that ended by its own code, past every boundary of it."""
        _log.error("a run broke its attempt", request_id=run.request.request_id, exc_info=error)
        result = written(
            run,
            tokens,
            CutOff("failed", reason_of(error)),
            attempt=self.number(run),
            at_ms=self._services.clock_ms(),
        )
        return RunOutcome(result, None, usage_known=False)


async def cancellable(run: Run, work: Awaitable[T]) -> T | None:
    """Do what the run waits for; gives `None` if the run was cancelled meanwhile."""
    run.executing = executing = asyncio.ensure_future(work)
    try:
        return await executing
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not run.is_cancelled() or (task is not None and task.cancelling()):
            raise  # not the run is cancelled but its lane, or the run's code cancelled itself
        return None
    finally:
        run.executing = None
