"""Running agents: attempt after attempt, until a run has an outcome or has to leave memory."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace

from millstream.agents.attempt import RunOutcome
from millstream.middleware.base import AttemptUsage
from millstream.schemas.base import Event
from millstream.schemas.errors import Terminal
from millstream.schemas.events import AgentResult, AttemptStarted, SessionUpdated
from millstream.schemas.lane_events import ATTEMPTS_PER_GENERATION
from millstream.schemas.runs.errors import AttemptsExhausted, RequestTimedOut
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.output.in_flight import InFlightRequests
from millstream.streams.lane.output.outcomes import CutOff, next_turn
from millstream.streams.lane.output.session_gate import kept_on, moved_on, turned_away
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.runs.admission import told_of_repair
from millstream.streams.lane.runs.attempting import AttemptRunner, cancellable
from millstream.streams.lane.runs.attempts import AttemptStarter
from millstream.streams.lane.runs.doubt import doubt_after, doubt_before, under_way_s
from millstream.streams.lane.runs.fallback import ModelChoice
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.runs.telling.run_telling import RunTelling, with_steps
from millstream.streams.lane.runs.telling.token_publisher import TokenPublisher
from millstream.streams.lane.runs.verdicts import failed_by, out_of_time, refused
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.pauses import Pauses


@dataclass(frozen=True, slots=True)
class Leave:
    """The run leaves memory: it is paused, waits long for its next attempt, or the lane drains."""


@dataclass(frozen=True, slots=True)
class KeepProgress:
    """How far the run is has to be on its way to the log before it goes on."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The run has an outcome that stands: `events` are to be committed, in this tick."""

    events: list[Event]


Step = Leave | KeepProgress | Finished
"""What became of a run that was let go on."""


class RunRunner:
    """Runs the agents of one lane, and gives back what became of each run."""

    def __init__(
        self,
        context: LaneContext,
        *,
        state: LaneState,
        writer: LaneWriter,
        in_flight: InFlightRequests,
        pauses: Pauses,
        telling: RunTelling,
    ) -> None:
        self._context = context
        self._services = context.services
        self._state = state
        self._writer = writer
        self._in_flight = in_flight
        self._attempt = AttemptRunner(context, state=state, writer=writer, pauses=pauses)
        self._attempts = AttemptStarter(
            state=state, writer=writer, lost_max=context.services.limits.attempts_lost_max
        )
        self._models = ModelChoice(context.services)
        self._pauses = pauses
        self._telling = telling
        self._draining = False
        self._drained = asyncio.Event()

    def drain(self) -> None:
        """Begin no attempt any more; those under way go on."""
        self._draining = True
        self._drained.set()

    async def run(self, run: Run) -> Step:
        """Let a run go on until there is an outcome that stands, or it cannot go on here.

        After `KeepProgress`, call it again in the same tick. Raises `LaneLost`.
        """
        await self._writer.sessions.recall(run.session)
        head = self._state.heads.get(run.session)
        if run.cancelled is None:
            run.cancelled = self._meet(run) or moved_on(run.request, head)
        if (leaves := await self._settle(run)) is not None:
            return leaves
        self._models.choose_first(run)
        return await self._go_on(run, head)

    async def _go_on(self, run: Run, head: SessionUpdated | None) -> Step:
        while True:
            number = self._attempt.number(run)
            if not run.is_cancelled() and self._may_not_begin(run):
                run.under_way.stop(self._services.clock_ms())
                self._telling.held(run, number)
                return Leave()
            tokens = self._attempt.tokens(run)
            begun = await self._begin(run)
            if isinstance(begun, KeepProgress | Leave):
                return begun
            if isinstance(begun, Terminal):
                return self._finished(
                    run,
                    refused(run, begun, attempt=number, at_ms=self._services.clock_ms()),
                )
            called, model = not run.is_cancelled(), run.plan.model
            steps = await self._telling.begins(run, number) if called else None
            run.last = outcome = (
                await self._attempt.run(run, tokens, head, steps, started=begun) if called else None
            )
            used = run.used(number, begun, outcome, called=called)
            # The result comes after its tokens: whoever has read the result can read all of them.
            unwritten = await _flushed(tokens)
            if outcome is None:
                await self._telling.cancelled(run, steps)
                cancelled = with_steps(self._attempt.cut_off(run, tokens), steps)
                return self._finished(run, cancelled, used)
            outcome, delay_s = self._judged(run, outcome, unwritten)
            again = delay_s is not None
            await self._telling.over(run, outcome, steps, model=model, again=again)
            if delay_s is None:
                break
            if (step := await self._again(run, outcome, used, delay_s)) is not None:
                return step
        ended = with_steps(outcome.result, steps)
        checkpoint = None
        if outcome.checkpoint is not None and self._keeps_session(run):
            checkpoint = next_turn(outcome.checkpoint, head)
            ended = ended.model_copy(update={"turn": checkpoint.turn})
        finished = self._finished(run, ended, used)
        if checkpoint is not None:
            result = next(one for one in finished.events if isinstance(one, AgentResult))
            new_head = self._writer.head_of(checkpoint, head, result)
            finished.events.extend((checkpoint, new_head))
        return finished

    def _meet(self, run: Run) -> CutOff | None:
        """Give how a run ends for the state of its session; where it does not, that is kept on."""
        state = self._state.session_states.get(run.session)
        met = turned_away(state, run.key[2], run.order, run.request.at_ms)
        if met is None and (kept := kept_on(state, self._services.clock_ms())) is not None:
            self._state.session_states.fold(kept)
            self._writer.submit([kept])
        return met

    def _keeps_session(self, run: Run) -> bool:
        """Tell whether what the run adds to its session is kept.

        Not where the session was deleted, and not of a request that named none: it would be there
        for a month for somebody to ask for by the request's id. A session of that id that exists
        meanwhile, as somebody gave a command on it, is kept.
        """
        if self._state.lifecycle(run.session) == "deleted":
            return False
        return not run.request.is_sessionless or self._state.knows(run.session)

    def _finished(
        self, run: Run, result: AgentResult, used: AttemptUsage | None = None
    ) -> Finished:
        used = run.used(result.attempt) if used is None else used
        return Finished(self._in_flight.settlement(run.request, result, used))

    def _may_not_begin(self, run: Run) -> bool:
        return self._draining or self._pauses.is_paused(run.key, run.session)

    def _judged(
        self, run: Run, outcome: RunOutcome, unwritten: Terminal | None
    ) -> tuple[RunOutcome, float | None]:
        """Give an attempt's outcome, and the wait before the next one in s; `None`: it stands.

        `unwritten` is why not all of its tokens could be written.
        """
        if unwritten is not None:
            return failed_by(outcome, unwritten), None
        if outcome.suspended or self._models.goes_on(run, outcome) or self._repairs(run, outcome):
            return outcome, 0.0
        # One of a run's models may answer later, though the last of them never will.
        may_pass = outcome.retryable or (outcome.model_failed and run.model_may_recover)
        return self._delayed(run, outcome) if may_pass else (self._models.told(run, outcome), None)

    def _delayed(self, run: Run, outcome: RunOutcome) -> tuple[RunOutcome, float | None]:
        """Give what `_judged` does of a run that another attempt may bring on."""
        delay_s = run.plan.template.retry.delay_s(
            run.failures + 1, chance=self._services.chance(), retry_after_s=outcome.retry_after_s
        )
        if delay_s is None:
            return self._models.told(run, outcome), None
        if run.is_over_by(self._services.clock_ms() + round(delay_s * 1000)):
            return out_of_time(run, outcome), None
        if (in_doubt := doubt_after(run, outcome)) is not None:
            return in_doubt, None
        self._models.choose(run)
        return outcome, delay_s

    def _repairs(self, run: Run, outcome: RunOutcome) -> bool:
        """Have the model give its answer anew that does not fit its schema; tells if it is to."""
        if outcome.invalid is None or run.repairs >= run.plan.template.repairs_max:
            return False
        if run.is_over_by(self._services.clock_ms()):
            return False
        if run.calls.repair is None:
            run.admission = told_of_repair(run.admission)
        run.repairs += 1
        run.calls.repair = outcome.invalid
        return True

    async def _waited(self, run: Run, delay_s: float) -> bool:
        """Wait before the next attempt; gives false if the run is to leave memory meanwhile."""
        if delay_s > self._services.limits.wait_in_memory_max_s:
            run.not_before_ms = self._services.clock_ms() + round(delay_s * 1000)
            run.under_way.stop(run.not_before_ms)
            return False
        await cancellable(run, asyncio.sleep(delay_s))
        return True

    async def _again(
        self, run: Run, outcome: RunOutcome, used: AttemptUsage, delay_s: float
    ) -> Step | None:
        """Charge for an attempt and wait for the next; gives a step if it cannot begin here now."""
        run.tries += 1
        run.failures += not outcome.suspended and outcome.invalid is None
        if not outcome.suspended:
            run.failure = outcome.result.reason
        if run.calls.with_effect:
            # That it made them is on its way to the log before its attempt is over there.
            run.due, run.not_before_ms = used, self._services.clock_ms() + round(delay_s * 1000)
            return KeepProgress()
        await self._charge(run, used)
        if outcome.suspended or await self._waited(run, delay_s):
            return None
        return Leave()

    async def _settle(self, run: Run) -> Leave | None:
        """Charge for the last attempt of a run with effects, and wait for the next."""
        if run.due is None:
            return None
        used, run.due = run.due, None
        await self._charge(run, used)
        delay_s = (run.not_before_ms - self._services.clock_ms()) / 1000
        if delay_s > self._services.limits.wait_in_memory_max_s:
            run.under_way.stop(run.not_before_ms)
            return Leave()
        if delay_s > 0:
            await cancellable(run, self._drained_within(delay_s))
        run.not_before_ms = 0
        return None

    async def _drained_within(self, delay_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._drained.wait()

    async def _begin(self, run: Run) -> AttemptStarted | KeepProgress | Leave | Terminal | None:
        if run.is_cancelled():
            return None
        if run.tries >= ATTEMPTS_PER_GENERATION:
            # A higher number is the next owner's. Retries are bounded far below, pauses are not.
            return AttemptsExhausted(f"the request was begun {run.tries} times without an outcome")
        if (doubt := await self._doubt(run)) is not None:
            return doubt
        if (limit_s := run.plan.template.request_timeout_s) is not None:
            now_ms = self._services.clock_ms()
            run.under_way.start(now_ms)
            if run.is_over_by(now_ms):
                return RequestTimedOut(f"the request took longer than {limit_s:g} s")
            # Committed with the attempt's mark; where it needs none, while it is under way.
            if not run.is_kept:
                return KeepProgress()
        return await self._attempts.begin(
            run.admission,
            attempt=self._attempt.number(run),
            decided=run.decided,
            may_follow=run.may_follow,
            traceparent=run.traceparent,
        )

    async def _doubt(self, run: Run) -> Terminal | Leave | None:
        """Say why a run may not begin its next attempt, for what was made of it; `None`: it may."""
        if (unreadable := await self._attempt.journals.recall(run)) is not None:
            return unreadable
        if (wait_s := under_way_s(run, self._services.clock_ms())) > 0:
            await cancellable(run, self._drained_within(wait_s))
            if self._draining:
                return Leave()
        unjournalled = self._state.open_attempts.lost_unjournalled(run.key)
        if (doubt := doubt_before(run, unjournalled=unjournalled)) is not None:
            return doubt
        return Leave() if self._lacks_tools(run) else None

    def _lacks_tools(self, run: Run) -> bool:
        """Tell whether a run has to wait for tools that it has called, and has it say so."""
        lacks, now_ms = self._attempt.journals.lacks(run), self._services.clock_ms()
        deadline_ms = run.request.deadline_ms
        if lacks is None or (deadline_ms is not None and deadline_ms <= now_ms):
            run.lacks_since_ms = 0
            return False
        run.admission = replace(run.admission, lacks=lacks)
        run.lacks_since_ms = run.lacks_since_ms or now_ms
        run.under_way.stop(now_ms)
        return True

    async def _charge(self, run: Run, used: AttemptUsage) -> None:
        """Charge for an attempt after which another is to begin; what is free adds up."""
        if used.started is None:
            run.spent = used.calls
            return
        run.spent = ()
        await self._attempts.charge(run.request, used, run.traceparent)


async def _flushed(tokens: TokenPublisher) -> Terminal | None:
    """Give why not all tokens of an attempt could be written; `None`: all are acknowledged."""
    try:
        await tokens.flush()
    except Terminal as refused:
        return refused
    return None
