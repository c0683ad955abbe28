"""What a queue of runs parks, and when; nothing of it is called up here, since no log is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from millstream.agents.executor import RunOutcome
from millstream.agents.factory import AgentFactory, RunPlan
from millstream.agents.loop.calls import Calls
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.base import Event, Reason
from millstream.schemas.events import AgentResult, ControlCommand, ResolvedRequest
from millstream.schemas.lane_events import CommandObeyed, HoldPlaced, RunParked
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneServices, stages
from millstream.streams.lane.base.metrics import LaneMetrics
from millstream.streams.lane.base.window import Entry, Window
from millstream.streams.lane.input.commands import CommandHandler
from millstream.streams.lane.output.in_flight import InFlightRequests
from millstream.streams.lane.output.writer import Committed, LaneWriter
from millstream.streams.lane.queue.run_queue import RunQueue
from millstream.streams.lane.runs.admission import admit
from millstream.streams.lane.runs.doubt import doubt_before
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.pauses import Pauses
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.wire.codec import Tombstone
from millstream.streams.wire.keys import request_key
from millstream.streams.wire.records import InputRecord, read_request
from tests import making
from tests.harness.writing_lane import lane_context
from tests.making import record
from tests.support import eventually


class PlainOutput:
    """Takes what a lane submits, in order, and commits it when told to."""

    source = "/test"

    def __init__(self, state: LaneState) -> None:
        self._state = state
        self._waiting: list[tuple[Sequence[Event | Tombstone], Committed]] = []
        self.submitted: list[Event | Tombstone] = []

    def submit(
        self,
        events: Sequence[Event | Tombstone],
        _traceparent: bytes | None = None,
        *,
        lazy: bool = False,  # noqa: ARG002  as of the real one
    ) -> Committed:
        committed: Committed = asyncio.get_running_loop().create_future()
        self._waiting.append((events, committed))
        self.submitted += events
        return committed

    async def commit(
        self, events: Sequence[Event | Tombstone], traceparent: bytes | None = None
    ) -> None:
        await self.submit(events, traceparent)

    def head(self, _session: object) -> None:
        return None

    def commit_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for events, committed in waiting:
            for event in events:
                if not isinstance(event, Tombstone):
                    self._state.apply(event)
            committed.set_result(tuple(range(len(events))))

    def parked(self) -> list[str]:
        return [one.request_id for one in self.submitted if isinstance(one, RunParked)]

    def results(self) -> list[str]:
        return [one.request_id for one in self.submitted if isinstance(one, AgentResult)]


class EmptyLog:
    """Reads nothing."""

    async def high_watermarks(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    async def read(self, _ends: object) -> AsyncIterator[Any]:
        for nothing in ():
            yield nothing


class Bench:
    """A queue of runs with room for `runs_in_flight_max`; what has `hang` as input never ends."""

    def __init__(
        self, *, templates: Sequence[AgentTemplate] = BUILT_IN_TEMPLATES, **changes: object
    ) -> None:
        settings = Settings.model_validate(changes)
        self.state = LaneState("chain", build_pipeline(None), hands_over=False)
        self.factory = AgentFactory(default_model="scripted", templates=templates)
        services = LaneServices(
            worker="test",
            producer=cast("Any", None),
            factory=self.factory,
            run_agent=_run_agent,
            peek_checkpoint=cast("Any", None),
            clock_ms=lambda: 5000,
            metrics=LaneMetrics.declare(MetricsCollector()),
            drain=lambda: None,
        )
        self.writer = PlainOutput(self.state)
        writer = cast("LaneWriter", self.writer)
        self.in_flight = InFlightRequests(
            state=self.state, writer=writer, clock_ms=services.clock_ms
        )
        self.failures: list[BaseException] = []
        self.pauses = Pauses()
        (stage,) = stages((), lambda: (build_pipeline(None),))
        self.queue = RunQueue(
            lane_context(settings, services, stage, fail=self.failures.append),
            state=self.state,
            writer=writer,
            in_flight=self.in_flight,
            reader=cast("PartitionReader", EmptyLog()),
            pauses=self.pauses,
        )
        self.commands = CommandHandler(
            services,
            writer=writer,
            queue=self.queue,
            in_flight=self.in_flight,
            pauses=self.pauses,
        )
        self._window: Window[InputRecord] = Window(100)
        self._offset = 0

    def entry(self, value: dict[str, str]) -> Entry[InputRecord]:
        self._offset += 1
        read = record(value, offset=self._offset)
        entry = self._window.take(self._offset, read, lambda: None)
        assert entry is not None
        return entry

    def submit(self, request_id: str, text: str = "x", template: str = "chat_agent") -> None:
        entry = self.entry({"user_id": "ada", "session_id": "s", "request_id": request_id,
                            "input": text, "template": template})  # fmt: skip
        request = read_request(entry.record)
        assert self.in_flight.register(request_key(request), request.digest)
        admission = admit(request, self.state, self.factory, input_bytes_max=1000)
        self.queue.submit(Run(request, admission, b"", order=entry.offset, entry=entry))

    async def obey(self, command: str, **target: str) -> None:
        entry = self.entry({})
        told = ControlCommand.model_validate({"user_id": "ada", "command": command, **target})
        await self.commands.execute(entry, told, entry.record.address, may_be_again=False)

    async def commit_until(self, *works: asyncio.Future[None]) -> None:
        """Commit whatever comes until all of `works` are done."""

        def done() -> bool:
            self.writer.commit_all()
            return all(work.done() for work in works)

        await eventually(done)
        await asyncio.gather(*works)

    @property
    def held(self) -> int:
        return len(self._window)


_RAISES: dict[str, BaseException] = {
    "cancelled": asyncio.CancelledError(),
    "exits": SystemExit(1),
    "interrupts": KeyboardInterrupt(),
    "closes": GeneratorExit(),
    "several": BaseExceptionGroup("several", [SystemExit(1)]),
    "plain": ValueError("x"),
}


async def _run_agent(
    request: ResolvedRequest, _plan: RunPlan, *, attempt: int, calls: Calls, **_: object
) -> RunOutcome:
    if request.input == "hang":
        await asyncio.get_running_loop().create_future()
    if (raised := _RAISES.get(request.input)) is not None:
        raise raised
    if request.input == "cancels itself":
        cast("asyncio.Task[Any]", asyncio.current_task()).cancel()
        await asyncio.get_running_loop().create_future()
    result = making.result(
        user_id=request.user_id,
        request_id=request.request_id,
        session_id=request.session_id,
        at_ms=5000,
        accepted_at_ms=request.at_ms,
        source=request.source,
        attempt=attempt,
        output=f"{len(calls.effects)}",
    )
    if request.input.startswith("refunds") and not calls.effects:
        calls.effects["c1"] = "refund"
        return RunOutcome(_failed(result), checkpoint=None, retryable=True)
    if request.input == "pays":
        calls.in_doubt["c2"] = "pay"
        return RunOutcome(_failed(result), checkpoint=None, retryable=True)
    return RunOutcome(result, checkpoint=None)


def _failed(result: AgentResult) -> AgentResult:
    reason = Reason(code="model_failed", message="overloaded")
    return result.model_copy(update={"status": "failed", "reason": reason})


@asynccontextmanager
async def a_bench(**changes: Any) -> AsyncIterator[Bench]:
    bench = Bench(**changes)
    try:
        yield bench
    finally:
        await bench.queue.close()
        assert bench.failures == []


async def test_a_run_whose_result_is_on_its_way_is_not_parked_behind_it() -> None:
    # Its parked request would outlive the result, and the next owner would run it again.
    async with a_bench(runs_in_flight_max=1) as bench:
        bench.submit("r1")
        await eventually(lambda: bench.writer.results() == ["r1"])
        bench.submit("r2")
        assert bench.writer.parked() == ["r2"]


async def test_a_newcomer_that_waits_parks_what_its_session_runs_before_it() -> None:
    async with a_bench(runs_in_flight_max=1) as bench:
        bench.submit("r1", "hang")
        bench.submit("r2")
        assert bench.writer.parked() == ["r1", "r2"]


async def test_runs_let_go_of_their_records_when_these_hold_back_others() -> None:
    async with a_bench(runs_in_flight_max=10, park_after_s=3600) as bench:
        await bench.queue.open()
        for name in ("r1", "r2"):
            bench.submit(name, "hang")
        bench.queue.release_records()
        bench.submit("r3", "hang")
        await eventually(lambda: bench.writer.parked() == ["r1", "r2"])
        bench.writer.commit_all()
        await eventually(lambda: bench.held == 1)


async def test_a_command_finds_what_the_command_before_it_did() -> None:
    async with a_bench() as bench:
        session = {"session_id": "s"}
        pause, resume = (
            asyncio.ensure_future(bench.obey(name, **session)) for name in ("pause", "resume")
        )
        await eventually(lambda: len(bench.writer.submitted) == 4)
        placed, paused, lifted, resumed = bench.writer.submitted
        await bench.commit_until(pause, resume)
        assert isinstance(paused, CommandObeyed)
        assert isinstance(resumed, CommandObeyed)
        assert resumed.was_paused
        assert isinstance(placed, HoldPlaced)
        assert lifted == Tombstone(lifted.topic, placed.record_key)  # type: ignore[union-attr]
        assert len(bench.pauses) == 0


async def test_a_resume_says_that_there_was_no_pause_to_take_back() -> None:
    async with a_bench() as bench:
        resume = asyncio.ensure_future(bench.obey("resume", session_id="s"))
        await bench.commit_until(resume)
        (mark,) = bench.writer.submitted
        assert isinstance(mark, CommandObeyed)
        assert mark.was_paused is False


async def test_a_request_whose_result_is_on_its_way_cannot_be_paused() -> None:
    # Nobody would ever lift that hold.
    async with a_bench() as bench:
        bench.submit("r1")
        await eventually(lambda: bench.writer.results() == ["r1"])
        await bench.commit_until(asyncio.ensure_future(bench.obey("pause", request_id="r1")))
        assert not any(isinstance(one, HoldPlaced) for one in bench.writer.submitted)
        (mark,) = (one for one in bench.writer.submitted if isinstance(one, CommandObeyed))
        assert mark.had_ended
        assert len(bench.pauses) == 0


async def test_a_hold_goes_with_the_result_that_comes_before_its_commit() -> None:
    async with a_bench() as bench:
        bench.submit("r1", "hang")
        pause = asyncio.ensure_future(bench.obey("pause", request_id="r1"))
        await eventually(lambda: bench.writer.submitted)
        cancel = asyncio.ensure_future(bench.obey("cancel", request_id="r1"))
        await eventually(lambda: bench.writer.results() == ["r1"])
        placed, *_, lifted = bench.writer.submitted
        assert isinstance(placed, HoldPlaced)
        assert isinstance(lifted, Tombstone)
        assert lifted.key == placed.record_key
        await bench.commit_until(pause, cancel)


@pytest.mark.parametrize("text", [*_RAISES, "cancels itself"])
async def test_whatever_a_run_raises_it_has_one_result_and_the_sessions_next_run_starts(
    text: str,
) -> None:
    with capture_logs():
        async with a_bench() as bench:
            bench.submit("r1", text)
            bench.submit("r2")

            def both() -> bool:
                bench.writer.commit_all()
                return bench.writer.results() == ["r1", "r2"]

            await eventually(both)
    first, second = (one for one in bench.writer.submitted if isinstance(one, AgentResult))
    assert (first.status, second.status) == ("failed", "completed")


def clerk(**fields: Any) -> AgentTemplate:
    return AgentTemplate(name="clerk", **fields)


async def results_of(bench: Bench, text: str) -> AgentResult:
    bench.submit("r1", text, "clerk")

    def ended() -> bool:
        bench.writer.commit_all()
        return bool(bench.writer.results())

    await eventually(ended)
    (result,) = (one for one in bench.writer.submitted if isinstance(one, AgentResult))
    return result


async def test_a_run_with_an_effect_waits_in_memory_for_its_retry_which_knows_its_calls() -> None:
    # Longer than what waits in memory otherwise.
    retry = RetryPolicy(backoff_first_s=1.2, jitter=0)
    async with a_bench(templates=[clerk(retry=retry)]) as bench:
        result = await results_of(bench, "refunds")
        (parked,) = (one for one in bench.writer.submitted if isinstance(one, RunParked))
    assert (result.status, result.output, result.attempt) == ("completed", "1", 1)
    assert parked.effects == ("refund",)


async def test_a_run_with_an_effect_ends_in_doubt_where_its_retry_is_too_far() -> None:
    retry = RetryPolicy(backoff_first_s=60, backoff_max_s=600, jitter=0)
    async with a_bench(templates=[clerk(retry=retry, effects_wait_s=10)]) as bench:
        result = await results_of(bench, "refunds")
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "in_doubt")
    assert "refund (c1)" in result.reason.message
    assert "overloaded" in result.reason.message


async def test_a_run_whose_call_gave_no_answer_ends_in_doubt_unless_its_template_retries() -> None:
    retry = RetryPolicy(backoff_first_s=0, attempts_max=3)
    async with a_bench(templates=[clerk(retry=retry)]) as bench:
        result = await results_of(bench, "pays")
    assert result.reason is not None
    assert (result.reason.code, result.attempt) == ("in_doubt", 0)
    assert "pay (c2)" in result.reason.message
    async with a_bench(templates=[clerk(retry=retry, in_doubt="retry")]) as bench:
        result = await results_of(bench, "pays")
    assert result.reason is not None
    assert (result.reason.code, result.attempt) == ("model_failed", 2)


async def test_what_a_parked_run_called_is_found_again_or_leaves_it_in_doubt() -> None:
    async with a_bench(templates=[clerk()]) as bench:
        bench.submit("r1", "hang", "clerk")
        run = bench.queue.find(("default", "ada", "r1"))
        assert isinstance(run, Run)
        assert doubt_before(run, 0) is None
        run.calls = Calls(forgotten=("refund",))
        assert "refund" in str(doubt_before(run, 0))
        run.calls = Calls()
        assert doubt_before(run, 1) is None


async def test_a_run_that_lost_its_worker_is_in_doubt_if_its_tools_have_effects() -> None:
    async with a_bench(templates=[clerk()]) as bench:
        bench.submit("r1", "hang", "clerk")
        run = bench.queue.find(("default", "ada", "r1"))
        assert isinstance(run, Run)
        assert run.admission.plan is not None
        template = run.plan.template.model_copy(update={"tools": ("mail", "refund")})
        plan = replace(run.plan, template=template, has_effects=True)
        run.admission = replace(run.admission, plan=plan)
        assert "mail, refund" in str(doubt_before(run, 1))
        retries = template.model_copy(update={"in_doubt": "retry"})
        run.admission = replace(run.admission, plan=replace(plan, template=retries))
        assert doubt_before(run, 1) is None
