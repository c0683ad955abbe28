"""A call that takes too long, or that is in doubt: what its tool's declared effect makes of it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.prebuilt import ToolRuntime

from millstream.agents.loop.calls import Calls
from millstream.agents.loop.tools.intents import Intent
from millstream.agents.tools import NOT_MADE, Caller, tool
from millstream.schemas.errors import ModelFailed, Suspended
from tests.fakes.odd_models import calling
from tests.harness.call_bench import DONE, bench
from tests.support import eventually

LATE_S = 0.2


class Payments:
    """A service that pays, and the keys that it was asked with; the first `hangs` calls hang."""

    def __init__(self, *, hangs: int = 1, paid: Any = NOT_MADE) -> None:
        self.keys: list[str | None] = []
        self.asked: list[tuple[str | None, dict[str, Any]]] = []
        self.hangs = hangs
        self.paid = paid

    def tool(self, effect: Any, *, timeout_s: float | None = LATE_S, **rules: Any) -> BaseTool:
        """Give the tool."""

        async def pay(order: str, runtime: ToolRuntime[Caller]) -> str:
            """Pay an order."""
            self.keys.append(runtime.context.idempotency_key)
            if len(self.keys) <= self.hangs:
                await asyncio.get_running_loop().create_future()
            return f"paid {order}"

        reconcile = self.became if effect == "reconcile" else None
        return tool(effect=effect, timeout_s=timeout_s, reconcile=reconcile, **rules)(pay)

    async def became(self, caller: Caller, args: dict[str, Any]) -> Any:
        """Say what became of a call."""
        self.asked.append((caller.idempotency_key, args))
        if isinstance(self.paid, Exception):
            raise self.paid
        return self.paid


PAY = calling(("pay", {"order": "1"}, "c1"))


async def test_a_read_only_call_that_takes_too_long_is_told_to_the_model() -> None:
    one = bench([PAY, DONE], Payments().tool("read_only"))
    calls = Calls()
    assert (await one.run(calls=calls)).result.output == "done"
    (told,) = one.model.results(1)
    assert told.status == "error"
    assert told.content == (
        "ToolTimedOut: the tool 'pay' did not answer within 0.2 s; it changes nothing, and may be "
        "called again"
    )
    assert not calls.with_effect


async def test_a_call_that_takes_too_long_fails_the_run_where_the_tools_errors_do() -> None:
    outcome = await bench([PAY, DONE], Payments().tool("read_only", ends_run_on_error=True)).run()
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "tool_failed"
    assert "did not answer within 0.2 s" in outcome.result.reason.message


async def test_an_idempotent_call_that_takes_too_long_is_made_again_under_its_key() -> None:
    payments = Payments()
    one = bench([PAY, DONE], payments.tool("idempotent"))
    assert (await one.run()).result.output == "done"
    assert one.model.results(1)[0].content == "paid 1"
    first, second = payments.keys
    assert first == second != None  # noqa: E711  both, and not `None`


@pytest.mark.parametrize("effect", ["idempotent", "ask_human"])
async def test_a_call_of_which_nobody_knows_ends_the_run_in_doubt_and_is_not_told_as_failed(
    effect: str,
) -> None:
    # crewAIInc/crewAI#5802: told as failed, a payment is made again, by another call.
    one = bench([PAY, DONE], Payments(hangs=9).tool(effect))
    calls = Calls()
    outcome = await one.run(calls=calls)
    assert outcome.result.reason is not None
    assert (outcome.result.reason.code, outcome.retryable) == ("in_doubt", False)
    assert "'pay' did not answer within 0.2 s; it is not known" in outcome.result.reason.message
    assert "(pay, c1)" in outcome.result.reason.message
    assert calls.in_doubt == {"c1": "pay"}


async def test_a_template_that_repeats_calls_in_doubt_has_them_told_to_the_model() -> None:
    one = bench([PAY, DONE], Payments(hangs=9).tool("ask_human"), in_doubt="retry")
    assert (await one.run()).result.output == "done"
    assert "it is not known whether it did" in str(one.model.results(1)[0].content)


@pytest.mark.parametrize(
    ("paid", "told"), [("paid before", "paid before"), ({"id": 7}, '{"id": 7}'), (True, "true")]
)
async def test_a_call_that_can_be_asked_about_has_the_answer_it_would_have_had(
    paid: Any, told: str
) -> None:
    payments = Payments(paid=paid)
    one = bench([PAY, DONE], payments.tool("reconcile"))
    assert (await one.run()).result.output == "done"
    (answer,) = one.model.results(1)
    assert (answer.content, answer.status, answer.tool_call_id) == (told, "success", "c1")
    assert payments.asked == [(payments.keys[0], {"order": "1"})]


async def test_a_call_that_did_nothing_is_told_so() -> None:
    payments = Payments()
    one = bench([PAY, DONE], payments.tool("reconcile"))
    assert (await one.run()).result.output == "done"
    assert "it did nothing, and may be called again" in str(one.model.results(1)[0].content)
    assert len(payments.keys) == 1


class Fails(Payments):
    """The same, but the calls fail as these say; behind them, they pay."""

    def __init__(self, *errors: Exception, paid: Any = NOT_MADE) -> None:
        super().__init__(paid=paid)
        self.errors = list(errors)

    def tool(self, effect: Any, **rules: Any) -> BaseTool:
        """Give the tool."""

        async def pay(order: str, runtime: ToolRuntime[Caller]) -> str:
            """Pay an order."""
            self.keys.append(runtime.context.idempotency_key)
            if self.errors:
                raise self.errors.pop(0)
            return f"paid {order}"

        reconcile = self.became if effect == "reconcile" else None
        return tool(effect=effect, reconcile=reconcile, **rules)(pay)


SLOW = httpx.ReadTimeout("slow")
NO_SERVER = httpx.ConnectError("no route")
CLOSED = ValueError("the order is closed")


async def test_a_call_that_raised_what_says_nothing_of_it_is_made_again_under_its_key() -> None:
    # ComposioHQ/composio#3654: what a client gave up on may be done all the same.
    payments = Fails(SLOW)
    one = bench([PAY, DONE], payments.tool("idempotent"))
    assert (await one.run()).result.output == "done"
    assert one.model.results(1)[0].content == "paid 1"
    assert (len(payments.keys), len(set(payments.keys))) == (2, 1)


@pytest.mark.parametrize("ends_run", [False, True])
async def test_a_call_that_raised_what_says_nothing_of_it_ends_the_run_in_doubt(
    *, ends_run: bool
) -> None:
    calls = Calls()
    pays = Fails(SLOW).tool("ask_human", ends_run_on_error=ends_run)
    reason = (await bench([PAY, DONE], pays).run(calls=calls)).result.reason
    assert reason is not None
    assert reason.code == "in_doubt"
    assert reason.message.startswith(
        "the tool 'pay' failed with ReadTimeout: slow; it is not known"
    )
    assert "(pay, c1), called at " in reason.message
    assert 'with {"order": "1"}; find out before you ask anew' in reason.message
    assert calls.in_doubt == {"c1": "pay"}
    assert calls.intents["c1"].arguments == '{"order": "1"}'


@pytest.mark.parametrize(("paid", "told"), [("paid before", "paid before"), (NOT_MADE, None)])
async def test_a_call_that_raised_what_says_nothing_of_it_is_asked_about(
    paid: Any, told: str | None
) -> None:
    payments = Fails(SLOW, paid=paid)
    one = bench([PAY, DONE], payments.tool("reconcile"))
    assert (await one.run()).result.output == "done"
    (answer,) = one.model.results(1)
    if told is None:
        assert answer.status == "error"
        assert "ReadTimeout: slow; it did nothing, and may be called again" in str(answer.content)
    else:
        assert (answer.content, answer.status) == (told, "success")
    assert (len(payments.keys), len(payments.asked)) == (1, 1)


@pytest.mark.parametrize("effect", ["read_only", "idempotent", "reconcile", "ask_human"])
@pytest.mark.parametrize("error", [CLOSED, NO_SERVER])
async def test_an_error_that_is_an_answer_or_says_that_nothing_was_sent_is_told_to_the_model(
    effect: str, error: Exception
) -> None:
    payments, calls = Fails(error), Calls()
    one = bench([PAY, DONE], payments.tool(effect))
    assert (await one.run(calls=calls)).result.output == "done"
    assert one.model.results(1)[0].content == f"{type(error).__name__}: {error}"
    assert (len(payments.keys), payments.asked, calls.in_doubt) == (1, [], {})


async def test_a_read_only_call_may_raise_what_it_likes() -> None:
    one = bench([PAY, DONE], Fails(SLOW).tool("read_only"))
    assert (await one.run()).result.output == "done"
    assert one.model.results(1)[0].content == "ReadTimeout: slow"


@pytest.mark.parametrize(("second", "code"), [(SLOW, "in_doubt"), (NO_SERVER, "in_doubt")])
async def test_a_second_call_that_gives_no_answer_leaves_the_first_in_doubt(
    second: Exception, code: str
) -> None:
    # That nobody could be reached now says nothing of the call that somebody got.
    payments = Fails(SLOW, second)
    reason = (await bench([PAY, DONE], payments.tool("idempotent")).run()).result.reason
    assert reason is not None
    assert (reason.code, len(payments.keys)) == (code, 2)
    assert f"{type(second).__name__}: {second}" in reason.message


async def test_what_a_second_call_is_answered_is_the_answer() -> None:
    payments = Fails(SLOW, CLOSED)
    one = bench([PAY, DONE], payments.tool("idempotent"))
    assert (await one.run()).result.output == "done"
    assert one.model.results(1)[0].content == "ValueError: the order is closed"


async def test_a_template_that_repeats_calls_is_told_what_is_not_known() -> None:
    one = bench([PAY, DONE], Fails(SLOW).tool("ask_human"), in_doubt="retry")
    assert (await one.run()).result.output == "done"
    assert "ReadTimeout: slow; it is not known whether it did" in str(
        one.model.results(1)[0].content
    )


async def test_a_call_that_was_begun_elsewhere_is_made_again_under_the_key_of_then() -> None:
    payments = Payments(hangs=0)
    calls = Calls(intents={"c1": Intent("c1", "pay", "idempotent", key="of-then")})
    one = bench([PAY, DONE], payments.tool("idempotent"))
    assert (await one.run(calls=calls)).result.output == "done"
    assert payments.keys == ["of-then"]
    assert (calls.intents, calls.effects) == ({}, {"c1": "pay"})


@pytest.mark.parametrize("effect", ["read_only", "idempotent", "reconcile", "ask_human"])
async def test_a_call_that_was_begun_as_one_for_a_person_is_not_made_again(effect: str) -> None:
    payments = Payments(hangs=0)
    calls = Calls(intents={"c1": Intent("c1", "pay", "ask_human", arguments="{}", at_ms=0)})
    reason = (await bench([PAY, DONE], payments.tool(effect)).run(calls=calls)).result.reason
    assert reason is not None
    assert reason.code == "in_doubt"
    assert "(pay, c1), called at 1970-01-01T00:00:00Z with {}" in reason.message
    assert (payments.keys, payments.asked) == ([], [])


async def test_a_call_that_was_answered_is_not_made_again_whatever_it_would_give_now() -> None:
    payments, calls = Payments(hangs=0), Calls()
    one = bench([PAY, ModelFailed("overloaded"), DONE], payments.tool("idempotent"))
    assert (await one.run(calls=calls)).retryable
    assert (await one.run(calls=calls, attempt=1001, announce=True)).result.output == "done"
    assert len(payments.keys) == 1
    assert one.model.results(2)[0].content == "paid 1"


def other() -> BaseTool:
    """Give a tool of another name."""

    @tool(effect="read_only")
    def looks(order: str) -> str:
        """Look."""
        return order

    return looks


def changed() -> BaseTool:
    """Give the tool as it is declared later, with other arguments."""

    @tool(name="pay", effect="idempotent")
    def pay(number: int) -> str:
        """Pay an order."""
        return f"paid {number}"

    return pay


@pytest.mark.parametrize("later", [other, changed])
async def test_a_call_that_was_answered_is_taken_though_its_tool_is_gone_or_changed(
    later: Any,
) -> None:
    payments, calls = Payments(hangs=0), Calls()
    first = bench([PAY, ModelFailed("overloaded")], payments.tool("idempotent"))
    assert (await first.run(calls=calls)).retryable
    second = bench([DONE], later())
    assert (await second.run(calls=calls, attempt=1001, announce=True)).result.output == "done"
    assert second.model.results(0)[0].content == "paid 1"


@pytest.mark.parametrize(
    ("later", "why"), [(other, "its tool is gone"), (changed, "its tool takes other arguments now")]
)
async def test_a_call_that_was_begun_is_in_doubt_where_its_tool_is_gone_or_changed(
    later: Any, why: str
) -> None:
    # Not "this call was not made": it may have been.
    payments, calls = Payments(), Calls()
    first = bench([PAY], payments.tool("idempotent", timeout_s=None), attempt_timeout_s=0.2)
    assert (await first.run(calls=calls)).retryable
    second = bench([DONE], later())
    outcome = await second.run(calls=calls, attempt=1001, announce=True)
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "in_doubt"
    assert why in outcome.result.reason.message
    assert "(pay, c1), called at " in outcome.result.reason.message


async def test_a_call_of_a_tool_that_is_declared_to_read_by_now_is_settled_all_the_same() -> None:
    payments, calls = Payments(), Calls()
    first = bench([PAY], payments.tool("idempotent", timeout_s=None), attempt_timeout_s=0.2)
    assert (await first.run(calls=calls)).retryable
    second = bench([DONE], payments.tool("read_only"))
    assert (await second.run(calls=calls, attempt=1001, announce=True)).result.output == "done"
    assert len(set(payments.keys)) == 1
    assert (calls.in_doubt, calls.intents, calls.effects) == ({}, {}, {"c1": "pay"})


async def retried(payments: Payments, effect: str, **template: Any) -> tuple[Any, Calls]:
    """Run an attempt that ends within a call, and the next one."""
    one = bench(
        [PAY, DONE], payments.tool(effect, timeout_s=None), attempt_timeout_s=0.2, **template
    )
    calls = Calls()
    first = await one.run(calls=calls)
    assert first.retryable
    assert calls.in_doubt == {"c1": "pay"}
    assert bool(calls.unsettled) == (effect == "ask_human")
    second = await one.run(calls=calls, attempt=1001, announce=True)
    assert second.result.output == "done"
    assert calls.in_doubt == calls.settleable == {}
    return one.model.results(1)[0], calls


async def test_the_next_attempt_makes_an_idempotent_call_in_doubt_again_under_its_key() -> None:
    payments = Payments()
    told, _ = await retried(payments, "idempotent")
    assert told.content == "paid 1"
    assert len(payments.keys) == 2
    assert len(set(payments.keys)) == 1


@pytest.mark.parametrize(("paid", "made"), [("paid before", 1), (NOT_MADE, 2)])
async def test_the_next_attempt_asks_what_became_of_a_call_and_makes_it_if_it_was_not(
    paid: Any, made: int
) -> None:
    payments = Payments(paid=paid)
    told, calls = await retried(payments, "reconcile")
    assert isinstance(told, ToolMessage)
    assert told.content == ("paid 1" if made == 2 else "paid before")
    assert (len(payments.keys), len(set(payments.keys))) == (made, 1)
    assert calls.effects == {"c1": "pay"}


async def test_a_run_that_is_paused_before_a_call_with_an_effect_is_not_in_doubt_of_it() -> None:
    payments, asked = Payments(hangs=0), 0

    async def pauses() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            message = "paused"
            raise Suspended(message)

    one, calls = bench([PAY, DONE], payments.tool("ask_human")), Calls()
    assert (await one.run(calls=calls, before_call=pauses)).suspended
    assert (calls.in_doubt, payments.keys) == ({}, [])
    outcome = await one.run(calls=calls, before_call=pauses, attempt=1001, announce=True)
    assert (outcome.result.output, len(payments.keys)) == ("done", 1)


class Blocking:
    """A plain function that blocks until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.running = 0

    def tool(self, effect: Any, **rules: Any) -> BaseTool:
        """Give the tool."""

        def pay() -> str:
            """Pay."""
            self.running += 1
            self.let_go.wait(60)
            self.running -= 1
            return "paid"

        return tool(effect=effect, **rules)(pay)


CALLS_PAY = calling(("pay", {}, "c1"))


async def test_a_thread_that_reads_and_hangs_fails_no_run_and_counts_as_lost() -> None:
    # openai/openai-agents-python#2479: a thread cannot be stopped; here its place is kept.
    blocking = Blocking()
    one = bench([CALLS_PAY, DONE], blocking.tool("read_only", timeout_s=LATE_S), tool_grace_s=60)
    assert (await one.run()).result.output == "done"
    assert "changes nothing" in str(one.model.results(1)[0].content)
    assert (one.runs.factory.tool_threads_lost, blocking.running) == (1, 1)
    blocking.let_go.set()
    await eventually(lambda: one.runs.factory.tool_threads_lost == 0)


async def test_a_call_that_found_no_thread_was_not_made_and_says_so() -> None:
    # barun-saha/kodeagent#197 and its like tell of a time-out, and the call may begin later.
    blocking = Blocking()
    says = [CALLS_PAY, calling(("pay", {}, "c2")), DONE]
    pays = blocking.tool("read_only", timeout_s=LATE_S)
    one = bench(says, pays, tool_threads_max=1)
    assert (await one.run()).result.output == "done"
    assert "'pay' was not called: all threads of its template were busy for 0.2 s" in str(
        one.model.results(2)[1].content
    )
    assert blocking.running == 1
    blocking.let_go.set()
    await eventually(lambda: one.runs.factory.tool_threads_lost == 0)


async def test_a_thread_with_an_effect_that_hangs_fails_the_run() -> None:
    blocking = Blocking()
    one = bench(
        [CALLS_PAY, DONE], blocking.tool("idempotent"), tool_timeout_s=LATE_S, tool_grace_s=0
    )
    outcome = await one.run()
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "tool_stuck"
    assert "did not answer within 0.2 s and goes on" in outcome.result.reason.message
    blocking.let_go.set()
    await eventually(lambda: one.runs.factory.tool_threads_lost == 0)


async def test_a_tools_own_time_out_is_its_own_error() -> None:
    @tool(effect="read_only", timeout_s=60)
    async def asks() -> str:
        """Ask."""
        message = "the server is slow"
        raise TimeoutError(message)

    one = bench([calling(("asks", {}, "c1")), DONE], asks)
    await one.run()
    assert one.model.results(1)[0].content == "TimeoutError: the server is slow"
