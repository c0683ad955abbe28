"""What is known of a run's attempts when one of them is over."""

from __future__ import annotations

from uuid import uuid4

from langchain_core.messages import HumanMessage

from millstream.agents.attempt import RunOutcome
from millstream.agents.factory import AgentFactory, RunPlan
from millstream.agents.models.call_meter import CallMeter
from millstream.schemas.base import CallUsage, Usage
from millstream.streams.lane.runs.admission import Admission
from millstream.streams.lane.runs.run import ActiveTime, Run
from tests import making
from tests.making import resolved, result_of

ASKED = resolved()
PLAN = AgentFactory(default_model="scripted").plan(ASKED)
SPENT = CallUsage(Usage(input_tokens=1))
STARTED = making.attempt(session_id="r1", model="scripted")


def run(plan: RunPlan | None = PLAN) -> Run:
    decision = making.decision(session_id="r1", source=ASKED.source)
    admission = Admission(decision, is_new=False, plan=plan, refused=None)
    return Run(ASKED, admission, b"", order=7, spent=(SPENT,))


async def test_what_was_called_before_an_attempt_was_cut_off_is_known() -> None:
    cut_off = run()
    cut_off.calls.meter = meter = CallMeter(9)
    meter.begin(uuid4(), [HumanMessage("four")], {}, {}, is_own=True)
    used = cut_off.used(1000, STARTED, called=True)
    assert used.usage_known
    (_, call) = used.calls
    assert (call.usage.output_tokens, call.estimate_reason) == (9, "a model call was cut off")


async def test_what_free_attempts_used_adds_up() -> None:
    ended = RunOutcome(result_of(ASKED, usage=Usage(input_tokens=2)), None)
    assert run().used(1001, None, ended, called=True).usage == Usage(input_tokens=3)


async def test_an_attempt_without_an_outcome_did_not_say_unless_nothing_was_called() -> None:
    for called in (True, False):
        used = run().used(1000, STARTED, called=called)
        assert (used.started, used.usage_known) == (STARTED, not called)


async def test_an_outcome_tells_whether_its_usage_is_all() -> None:
    calls = (CallUsage(Usage(output_tokens=2), estimate_reason="nothing was reported"),)
    ended = RunOutcome(result_of(ASKED), None, calls=calls)
    used = run().used(1000, STARTED, ended, called=True)
    assert used.calls == (SPENT, *calls)
    assert used.usage == Usage(input_tokens=1, output_tokens=2)
    ended = RunOutcome(result_of(ASKED), None, usage_known=False)
    assert not run().used(1000, STARTED, ended, called=True).usage_known


async def test_a_run_whose_template_is_gone_can_still_be_charged_for() -> None:
    used = run(plan=None).used(1000)
    assert (used.model, used.template) == (None, "chat_agent")


def test_only_the_time_between_start_and_stop_is_counted() -> None:
    watch = ActiveTime()
    watch.start(1000)
    watch.start(1500)
    watch.stop(3000)
    watch.stop(9000)
    assert (watch.elapsed_ms, watch.since_ms) == (2000, 0)


def test_it_counts_on_from_where_it_stood() -> None:
    watch = ActiveTime(elapsed_ms=2000)
    watch.start(10_000)
    assert watch.since_ms == 8000
    watch.stop(11_000)
    assert watch.elapsed_ms == 3000


def test_a_clock_that_was_put_back_counts_nothing() -> None:
    watch = ActiveTime()
    watch.start(5000)
    watch.stop(4000)
    assert watch.elapsed_ms == 0
