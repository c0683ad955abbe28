"""Code that blocks its loop is found, named and counted; it takes nobody with it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from millstream.agents.attempt import RunOutcome
from millstream.agents.factory import AgentFactory
from millstream.agents.hosting.blocked import Blocked
from millstream.agents.hosting.host import AgentHost, HostLimits
from millstream.agents.loop.calls import Calls
from tests.contracts.run_agent_contract import Attempts
from tests.harness.blocking_agents import blocking_factory
from tests.harness.hosting import QUICK, hosted
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("spared_collector")

SLEEPS = 'call: sleep {{"seconds": {seconds}}}; say: it {{tool_result}}'


def sleeps(seconds: float) -> str:
    return SLEEPS.format(seconds=seconds)


@dataclass
class Bench:
    """A host, attempts on it, and what it told."""

    host: AgentHost
    factory: AgentFactory
    blocked: list[Blocked] = field(default_factory=list)
    stuck: list[int] = field(default_factory=list)

    @property
    def by_tools(self) -> list[Blocked]:
        """What tools blocked: to build a graph may be a long step, too."""
        return [each for each in self.blocked if each.tool is not None]

    def start(
        self, text: str, *, calls: Calls | None = None, template: str = "blocks"
    ) -> asyncio.Task[RunOutcome]:
        """Begin an attempt."""
        attempts = Attempts(self.host.run, self.factory)
        return asyncio.create_task(attempts.make(text, calls=calls, template=template))


@pytest.fixture
def limits() -> HostLimits:
    return QUICK


@pytest.fixture
def attempt_timeout_s() -> float:
    return 1.0


@pytest.fixture
async def bench(limits: HostLimits, attempt_timeout_s: float) -> AsyncIterator[Bench]:
    factory = blocking_factory(attempt_timeout_s=attempt_timeout_s)
    blocked: list[Blocked] = []
    stuck: list[int] = []
    async with hosted(
        factory, limits=limits, on_blocked=blocked.append, on_stuck=lambda: stuck.append(1)
    ) as host:
        yield Bench(host, factory, blocked, stuck)


async def test_code_that_blocks_ends_at_its_time_limit_as_one_failed_run(bench: Bench) -> None:
    outcome = await bench.start(sleeps(2))
    reason = outcome.result.reason
    assert reason is not None
    assert reason.code == "attempt_timed_out"
    assert "the tool 'sleep' of the template 'blocks'" in reason.message
    assert "blocking_agents.py:" in reason.message
    # Nothing is begun beside what goes on.
    assert not outcome.retryable
    assert not outcome.suspended
    # Its model's call is charged.
    assert outcome.result.usage.output_tokens > 0
    assert len(outcome.calls) == 1
    (told,) = bench.by_tools
    assert (told.template, told.tool, told.request_id) == ("blocks", "sleep", "r1")
    assert told.seconds >= QUICK.warn_s
    assert "(sleep)" in told.where
    await eventually(lambda: bench.host.given_up == 0)


async def test_a_block_within_the_bound_is_told_and_changes_nothing(bench: Bench) -> None:
    slow = bench.start(sleeps(0.2))
    neighbour = bench.start("say: hello")
    assert (await slow).result.output == "it slept 0.2 s"
    assert (await neighbour).result.output == "hello"
    assert [each.tool for each in bench.by_tools] == ["sleep"]
    assert bench.host.given_up == 0


async def test_a_neighbour_is_begun_anew_at_once_and_charged_for_nothing(bench: Bench) -> None:
    neighbour = bench.start("slow: 0.4; say: hello", template="chat_agent")
    blocking = bench.start(sleeps(2))
    outcome = await neighbour
    assert outcome.suspended
    assert outcome.calls == ()
    assert outcome.usage_known
    assert outcome.result.usage.output_tokens == 0
    assert not blocking.done()
    again = await bench.start("slow: 0.4; say: hello", template="chat_agent")
    assert again.result.output == "hello"
    assert not blocking.done()
    assert (await blocking).result.status == "failed"


async def test_what_a_neighbour_has_finished_is_charged_and_kept_for_its_next_attempt(
    bench: Bench,
) -> None:
    calls = Calls()
    text = 'call: waits {"seconds": 0.02}; slow: 0.5; say: it {tool_result}'
    neighbour = bench.start(text, calls=calls)
    await eventually(lambda: bool(calls.models_made))
    blocking = bench.start(sleeps(2))
    outcome = await neighbour
    assert outcome.suspended
    assert len(outcome.calls) == 1
    again = await bench.start(text, calls=calls)
    assert again.result.output == "it waited 0.02 s"
    # Of its two model calls, the first was not made again.
    assert len(again.calls) == 1
    await blocking


async def test_a_neighbour_in_a_call_with_an_effect_stays_until_that_answers(
    bench: Bench,
) -> None:
    calls = Calls()
    refunding = bench.start('call: refund {"seconds": 0.2}; say: {tool_result}', calls=calls)
    await eventually(lambda: bool(calls.in_doubt))
    blocking = bench.start(sleeps(0.6))
    outcome = await refunding
    # Its loop was given up, turned again in time, and nothing was begun beside the call.
    assert outcome.result.output == "refunded"
    assert list(calls.effects.values()) == ["refund"]
    # So it is with what blocked, if that ends before its time.
    assert (await blocking).result.output == "it slept 0.6 s"
    await eventually(lambda: bench.host.given_up == 0)


async def test_a_neighbour_in_a_call_with_an_effect_ends_at_its_own_limit(bench: Bench) -> None:
    calls = Calls()
    refunding = bench.start('call: refund {"seconds": 0.2}; say: {tool_result}', calls=calls)
    await eventually(lambda: bool(calls.in_doubt))
    blocking = bench.start(sleeps(2))
    outcome = await refunding
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "attempt_timed_out"
    assert outcome.retryable
    # The lane says what becomes of that.
    assert list(calls.in_doubt.values()) == ["refund"]
    await blocking


async def test_a_callback_that_exits_fails_its_run_alone(bench: Bench) -> None:
    neighbour = bench.start("slow: 0.2; say: hello")
    outcome = await bench.start('call: exits {"seconds": 60}; say: no')
    assert outcome.result.reason is not None
    assert "SystemExit" in outcome.result.reason.message
    assert not outcome.retryable
    assert (await neighbour).result.output == "hello"
    assert bench.host.given_up == 0


async def test_a_loop_that_ends_is_replaced_and_what_was_on_it_begun_anew(bench: Bench) -> None:
    neighbour = bench.start("slow: 60; say: hello")
    await bench.start("say: warm")
    read, write = os.pipe()
    loop = bench.host._current._loop

    def leave() -> None:
        loop.remove_reader(read)
        sys.exit(3)

    def watch() -> None:
        loop.add_reader(read, leave)
        os.write(write, b"x")

    loop.call_soon_threadsafe(watch)
    assert (await neighbour).suspended
    assert (await bench.start("say: hello")).result.output == "hello"
    await eventually(lambda: bench.host.given_up == 0)
    os.close(read)
    os.close(write)


async def test_a_run_that_loops_end_under_again_and_again_is_given_up(bench: Bench) -> None:
    calls = Calls()
    calls.begun_anew = 3
    running = bench.start("slow: 60; say: hello", calls=calls)
    await bench.start("say: warm")
    bench.host._current._loop.call_soon_threadsafe(sys.exit, 3)
    outcome = await running
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "attempts_exhausted"
    assert not outcome.retryable


@pytest.mark.parametrize("attempt_timeout_s", [0.5])
async def test_no_more_loops_are_given_up_than_the_bound_says(bench: Bench) -> None:
    for given_up in range(1, QUICK.given_up_max + 1):
        blocking = bench.start(sleeps(3))
        await eventually(lambda wanted=given_up: bench.host.given_up == wanted)
        assert bench.host.unready() is None
        assert (await blocking).result.status == "failed"
    last = bench.start(sleeps(1))
    await eventually(lambda: bench.host.unready() is not None)
    assert bench.stuck == [1]
    assert bench.host.given_up == QUICK.given_up_max
    assert (await last).result.status == "failed"
    await eventually(lambda: bench.host.unready() is None)


async def test_a_run_that_is_cancelled_while_its_loop_is_blocked_is_not_waited_for(
    bench: Bench,
) -> None:
    blocking = bench.start(sleeps(2))
    await eventually(lambda: bool(bench.blocked))
    blocking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(blocking, 0.5)


@pytest.mark.parametrize("limits", [HostLimits(warn_s=0.1, blocked_max_s=0.6)])
async def test_code_that_goes_on_after_its_run_was_cancelled_is_not_laid_to_a_neighbour(
    bench: Bench,
) -> None:
    calls = Calls()
    blocking = bench.start(sleeps(1.5))
    await eventually(lambda: bool(bench.blocked))
    neighbour = bench.start("slow: 60; say: hello", calls=calls)
    blocking.cancel()
    assert (await neighbour).suspended
    assert calls.begun_anew == 0


@pytest.mark.parametrize("attempt_timeout_s", [60])
async def test_what_holds_the_interpreter_is_found_and_named_afterwards(bench: Bench) -> None:
    # Some four times the limit on a fast machine, and more on any other.
    outcome = await bench.start('call: match {"letters": 24}; say: it is {tool_result}')
    assert outcome.result.output == "it is None"
    await eventually(lambda: bool(bench.by_tools))
    (told,) = bench.by_tools
    assert (told.template, told.tool) == ("blocks", "match")
    assert told.seconds >= QUICK.warn_s


@pytest.mark.parametrize("attempt_timeout_s", [60])
@pytest.mark.parametrize("limits", [HostLimits(warn_s=0.5)])
async def test_many_short_steps_in_one_turn_are_no_block(bench: Bench) -> None:
    await bench.start("say: warm")  # the graph is built, which is a long step
    bench.blocked.clear()
    outcomes = await asyncio.gather(*(bench.start("say: hello") for _ in range(200)))
    assert {each.result.output for each in outcomes} == {"hello"}
    assert bench.blocked == []


async def test_a_host_that_is_closed_leaves_no_thread(limits: HostLimits) -> None:
    factory = blocking_factory()
    async with hosted(factory, limits=limits) as host:
        running = asyncio.create_task(Attempts(host.run, factory).make("hang"))
        await eventually(lambda: bool(host._current.runs))
        ident = host._current.thread_id
        (thread,) = (each for each in threading.enumerate() if each.ident == ident)
    assert (await running).suspended
    await eventually(lambda: not thread.is_alive())
