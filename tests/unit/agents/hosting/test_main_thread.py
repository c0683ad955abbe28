"""What computes in C is interrupted in the main thread: others go on, and it ends at its time."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import AgentExecutor
from millstream.agents.hosting.agents_loop import AgentsOfLoop
from millstream.agents.hosting.host import AgentHost
from millstream.agents.hosting.main_thread import MainThread
from millstream.agents.models.resolve import resolve_model
from tests.contracts.run_agent_contract import Attempts
from tests.harness.blocking_agents import blocking_factory
from tests.harness.hosting import QUICK
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("spared_collector")

ENDLESS = 'call: match {"letters": 60}; say: no'
SLEEPS = 'call: sleep {"seconds": 60}; say: no'


def lent(work: Callable[[Attempts, AgentHost], Awaitable[None]], **of_template: object) -> None:
    """Do some work as a worker does: in another thread, while agents run in this one."""

    async def do() -> None:
        factory = blocking_factory(**of_template)
        host = AgentHost(
            lambda: AgentsOfLoop(AgentExecutor(factory.twin(resolve_model)).run),
            limits=QUICK,
            threads=main,
        )
        try:
            async with asyncio.timeout(30):
                await work(Attempts(host.run, factory), host)
        finally:
            await host.close()

    main = MainThread()
    main.lend_while(lambda: asyncio.run(do()))


def test_agents_run_in_the_main_thread_and_the_rest_elsewhere() -> None:
    async def work(attempts: Attempts, host: AgentHost) -> None:
        assert threading.current_thread() is not threading.main_thread()
        outcome = await attempts.make("say: hello")
        assert outcome.result.output == "hello"
        assert host._current.thread_id == threading.main_thread().ident

    lent(work)


@pytest.mark.parametrize("text", [ENDLESS, SLEEPS])
def test_what_cannot_be_cancelled_ends_at_its_time_limit_and_others_go_on(text: str) -> None:
    gaps_s: list[float] = []

    async def work(attempts: Attempts, host: AgentHost) -> None:
        blocking = asyncio.create_task(attempts.make(text))
        await eventually(lambda: host.given_up == 1)
        last_s = time.monotonic()
        while not blocking.done():
            neighbour: RunOutcome = await attempts.make("say: hello", template="chat_agent")
            assert neighbour.result.output == "hello"
            gaps_s.append(time.monotonic() - last_s)
            last_s = time.monotonic()
        outcome = await blocking
        assert outcome.result.reason is not None
        assert outcome.result.reason.code == "attempt_timed_out"
        assert "blocking_agents.py" in outcome.result.reason.message
        # The thread is had back, though the code would have gone on for years.
        await eventually(lambda: host.given_up == 0)
        main = threading.main_thread().ident
        await eventually(lambda: host._current.thread_id == main)
        assert (await attempts.make("say: hello")).result.output == "hello"

    lent(work, attempt_timeout_s=1.5)
    assert len(gaps_s) > 3
    assert max(gaps_s) < 1


def test_a_host_that_is_closed_while_code_blocks_has_the_thread_back() -> None:
    async def work(attempts: Attempts, host: AgentHost) -> None:
        blocking = asyncio.create_task(attempts.make(SLEEPS))
        await eventually(lambda: host._current.is_blocked)
        blocking.cancel()

    began_s = time.monotonic()
    lent(work)
    assert time.monotonic() - began_s < 10


def test_what_the_work_raises_is_raised_and_signals_are_as_before() -> None:
    before = signal.getsignal(signal.SIGVTALRM)

    async def work(_attempts: Attempts, _host: AgentHost) -> None:
        message = "no"
        raise LookupError(message)

    with pytest.raises(LookupError):
        lent(work)
    assert signal.getsignal(signal.SIGVTALRM) is before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
