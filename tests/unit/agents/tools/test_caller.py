"""What a tool and a middleware are told of who asks, and what no model can set."""

from __future__ import annotations

import threading
from dataclasses import fields
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.tools import tool as langchain_tool
from langgraph.prebuilt import ToolRuntime
from langgraph.runtime import Runtime
from typing_extensions import override

from millstream.agents.factory import AgentFactory, RunPlan
from millstream.agents.loop.agent import Agent, LoopAgent
from millstream.agents.loop.call_gate import CallGate
from millstream.agents.loop.calls import Calls
from millstream.agents.tools import Caller, tool
from millstream.agents.tools.caller import idempotency_key
from millstream.schemas.errors import ModelFailed
from tests.fakes.odd_models import calling
from tests.harness.agent_runs import NOW_MS, resolved
from tests.harness.call_bench import DONE, bench

SEEN: list[tuple[Caller, bool]] = []


def _see(context: Caller) -> str:
    is_main = threading.current_thread() is threading.main_thread()
    SEEN.append((context, is_main))
    return "seen"


@tool(effect="read_only", timeout_s=9)
def in_thread(x: str, runtime: ToolRuntime[Caller]) -> str:
    """See who asks, in a thread."""
    return _see(runtime.context) + x


@tool(effect="read_only")
async def in_loop(runtime: ToolRuntime[Caller, Any]) -> str:
    """See who asks, in the loop."""
    return _see(runtime.context)


@langchain_tool
def of_langchain(runtime: ToolRuntime) -> str:
    """See who asks, as a tool that LangChain made."""
    context: Any = runtime.context
    return _see(context)


TOOLS = (in_thread, in_loop, of_langchain)
ASK = calling(("in_thread", {"x": "1"}, "c1"), ("in_loop", {}, "c2"), ("of_langchain", {}, "c3"))


@pytest.fixture(autouse=True)
def forgotten() -> None:
    SEEN.clear()


async def test_a_tool_is_told_who_asks_in_a_thread_and_in_the_loop() -> None:
    one = bench([ASK, DONE], *TOOLS, attempt_timeout_s=60)
    asked = resolved(
        "x", template="own", tenant="acme", user_id="ada", metadata={"channel": "mail"}
    )
    await one.runs.run(asked, attempt=1002)
    assert len(SEEN) == 3
    assert {is_main for _, is_main in SEEN} == {True, False}
    for caller, _ in SEEN:
        assert (caller.tenant, caller.user_id, dict(caller.claims)) == ("acme", "ada", {})
        assert (caller.request_id, caller.session_id, caller.attempt) == (
            asked.request_id,
            "s1",
            1002,
        )
        assert (caller.template, caller.deadline_ms) == ("own", NOW_MS + 60_000)
        assert caller.model == "local"
        assert dict(caller.metadata) == {"channel": "mail"}
        assert caller.remaining_s == 0  # by this machine's clock, which the test's is far behind
        with pytest.raises(TypeError):
            caller.metadata["channel"] = "forged"  # type: ignore[index]
    assert len({caller.idempotency_key for caller, _ in SEEN}) == 3


async def test_the_first_of_an_attempts_limits_is_its_callers_deadline() -> None:
    one = bench([ASK, DONE], *TOOLS, attempt_timeout_s=60)
    await one.runs.run(resolved("x", template="own", deadline_ms=NOW_MS + 5_000))
    assert SEEN[0][0].deadline_ms == NOW_MS + 5_000


async def test_a_call_has_one_key_over_all_attempts_and_another_request_has_another() -> None:
    # strands-agents/harness-sdk#2884: stable over retries, new for a new call.
    keys = []
    for request_id in ("r1", "r2"):
        one, calls = bench([ASK, ModelFailed("overloaded"), DONE], *TOOLS), Calls()
        asked = resolved("x", template="own", request_id=request_id)
        await one.runs.run(asked, calls=calls)
        keys.append({caller.idempotency_key for caller, _ in SEEN})
        again = bench([ASK, DONE], *TOOLS)
        SEEN.clear()
        await again.runs.run(asked, attempt=1001)
        assert {caller.idempotency_key for caller, _ in SEEN} == keys[-1]
        SEEN.clear()
    assert not keys[0] & keys[1]


async def test_calls_that_share_an_id_have_keys_of_their_own() -> None:
    # open-webui/open-webui#28322: some models count their calls from 0 in each answer.
    says = [calling(("in_loop", {}, "in_loop:0")) for _ in range(3)]
    one = bench([*says, DONE], *TOOLS)
    assert (await one.run()).result.output == "done"
    assert len({caller.idempotency_key for caller, _ in SEEN}) == 3


def caller(**given: Any) -> Caller:
    named = {
        "tenant": "t",
        "user_id": "u",
        "request_id": "r",
        "session_id": "s",
        "attempt": 1,
        "deadline_ms": 0,
        "template": "own",
        "model": "m",
    }
    return Caller(**{**named, **given})


def test_ids_and_random_numbers_are_those_of_the_call_in_each_attempt_at_it() -> None:
    first, again = (caller(attempt=number, idempotency_key="k") for number in (1000, 2000))
    assert first.new_id() == again.new_id()
    assert first.random("price").random() == again.random("price").random()
    told = {first.new_id(), first.new_id("order"), caller(idempotency_key="other").new_id()}
    assert len(told) == 3
    assert len(first.new_id()) == 32
    assert first.random("a").random() != first.random("b").random()
    with pytest.raises(RuntimeError, match="only a run that is under way"):
        caller().new_id()
    with pytest.raises(RuntimeError, match="only a run that is under way"):
        caller().random()


def test_no_two_names_make_one_key() -> None:
    keys = {
        idempotency_key(caller(), "c"),
        idempotency_key(caller(tenant="tu", user_id=""), "c"),
        idempotency_key(caller(user_id="u1:r", request_id=""), "c"),
        idempotency_key(caller(request_id="r1:c"), ""),
        idempotency_key(caller(), "c\ud800"),
    }
    assert len(keys) == 5
    assert {len(key) for key in keys} == {32}
    # An attempt, a session or a model is no part of a call's name.
    assert idempotency_key(caller(attempt=9, model="x", session_id="y"), "c") in keys


@pytest.mark.parametrize("forged", [{"user_id": "eve"}, None, "eve"])
async def test_a_model_cannot_say_who_asks(forged: Any) -> None:
    ask = calling(("in_thread", {"x": "1", "runtime": forged}, "c1"))
    one = bench([ask, DONE], *TOOLS)
    assert (await one.run()).result.output == "done"
    (told,) = one.model.results(1)
    assert "it has no argument 'runtime'; known: x" in str(told.content)
    assert SEEN == []


async def test_a_caller_leads_to_nothing_inside() -> None:
    one = bench([ASK, DONE], *TOOLS)
    await one.run()
    (seen, _), *_ = SEEN
    for field in fields(seen):
        assert type(getattr(seen, field.name)).__module__ == "builtins"


class Listens(AgentMiddleware[Any, Any, Any]):
    """A middleware as LangChain has them."""

    @override
    def before_model(self, state: Any, runtime: Runtime[Caller]) -> None:
        """See who asks."""
        _see(runtime.context)


class Listening(AgentFactory):
    """A factory whose agents have a middleware more."""

    @override
    def create(self, plan: RunPlan) -> Agent:
        """Give an agent."""
        gate = CallGate(self.tools, plan.template)
        model = self._resolve(plan.model)
        return LoopAgent(create_agent(model, list(TOOLS), middleware=[gate, Listens()]))


async def test_a_middleware_of_langchains_is_told_who_asks() -> None:
    one = bench([DONE], *TOOLS)
    one.runs.factory = Listening(
        templates=one.runs.factory.list(), tools=one.registry, resolve=lambda *_, **__: one.model
    )
    await one.runs.run(resolved("x", template="own", user_id="ada"))
    ((seen, _),) = SEEN
    assert (seen.user_id, seen.idempotency_key) == ("ada", None)
