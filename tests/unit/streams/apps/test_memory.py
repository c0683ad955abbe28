"""Apps in memory: what their own tests run, as a worker would."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from langchain.tools import ToolRuntime
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from pydantic import ValidationError

from millstream import (
    AgentMiddleware,
    AgentTemplate,
    App,
    CallbackEvent,
    Caller,
    Forbidden,
    InMemoryApp,
    Listener,
    MiddlewareContext,
    MiddlewareResult,
    arun_agent,
    run_agent,
)
from millstream.middleware.policy import Policy
from millstream.schemas.errors import InputTooLarge, Misconfigured
from millstream.streams.apps.memory import CannotRun
from tests.harness.mcp import official_program
from tests.support import eventually


def opening_hours(day: str) -> str:
    """Tell when the shop is open on a day of the week."""
    return "closed" if day == "sunday" else "9 to 17"


class NoShouting(AgentMiddleware):
    """Turns away what is written in capitals."""

    name = "no_shouting"
    priority = 15
    asked: ClassVar[list[str]] = []

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:
        self.asked.append(context.request.input)
        if context.request.input.isupper():
            return MiddlewareResult(Forbidden("do not shout"))
        return MiddlewareResult()


SHOP = AgentTemplate(
    name="shop", kind="react", tools=("opening_hours",), models=("openai:gpt-5-mini",)
)
APP = App("shop", templates=[SHOP], tools=[opening_hours], layers=[NoShouting])
SCRIPT = 'call: opening_hours {"day": "friday"}; say: we are open {tool_result}'


def test_an_agent_answers_with_its_tool_by_a_script_and_is_charged_at_its_models_price() -> None:
    run = run_agent(APP, "shop", "when are you open?", user="ada", script=SCRIPT)
    assert (run.status, run.output) == ("completed", "we are open 9 to 17")
    assert "".join(token.text for token in run.tokens) == run.output
    assert run.result.user_id == "ada"
    assert run.tools_called == ("opening_hours",)
    assert [step.result for step in run.steps if step.kind == "tool_end"] == ["9 to 17"]
    assert run.result.model == "openai:gpt-5-mini"
    assert run.cost_micros == sum(cost.cost_micros for cost in run.costs) > 0
    assert len(run.costs) == 2
    assert run.decision is not None
    assert run.decision.passed == ("auth", "no_shouting", "logging", "cost", "rate_limit")


def test_a_field_that_no_request_has_is_refused_with_the_one_that_is_meant() -> None:
    # A request of other programs may hold fields that are not known here; a test's is misspelt.
    with pytest.raises(TypeError, match=r"no field 'session'; did you mean 'session_id'\?"):
        run_agent(APP, "shop", "sunday?", script=SCRIPT, session="s1")


def test_a_list_has_an_answer_for_each_call() -> None:
    answers = ['call: opening_hours {"day": "sunday"}', "say: {tool_result}"]
    assert run_agent(APP, "shop", "sunday?", script=answers).output == "closed"


async def test_a_layer_of_the_app_turns_away_with_its_own_reason() -> None:
    run = await arun_agent(APP, "shop", "OPEN UP", script=SCRIPT)
    assert (run.status, run.reason) == ("rejected", "forbidden: do not shout")
    assert (run.tokens, run.costs) == ((), ())


async def test_a_session_goes_on_and_a_policy_counts_over_several_requests() -> None:
    policy = Policy.model_validate({"defaults": {"rate": {"requests": 2, "window_s": 60}}})
    async with InMemoryApp(None, script="say: hello {input}", policy=policy) as memory:
        first = await memory.run("chat_agent", "one", session_id="s")
        second = await memory.run("chat_agent", "two", session_id="s")
        third = await memory.run("chat_agent", "three", session_id="s")
    assert [first.output, second.output] == ["hello one", "hello two"]
    assert third.reason.startswith("rate_limited: ")


ANY_MODEL = Policy.from_yaml(
    "{roles: {any: {templates: ['*'], models: ['*']}}, defaults: {roles: [any]}}", "policy.yaml"
)


async def test_a_request_names_no_model_that_the_policy_does_not_let_it_name() -> None:
    script = 'call: calculator {"expression": "1+1"}'
    run = await arun_agent(None, "react_agent", "hi", model=f"scripted:{script}")
    assert run.status == "rejected"
    assert run.reason.startswith("forbidden: user 'ada', who has no role, may not name model ")
    assert run.tools_called == ()


async def test_what_the_model_of_the_app_says_is_the_answer() -> None:
    def house(**_: object) -> FakeListChatModel:
        return FakeListChatModel(responses=["from the house"])

    app = App("own", models={"house": house})
    run = await arun_agent(app, "chat_agent", "hi", model="house", policy=ANY_MODEL)
    assert run.output == "from the house"
    run = await arun_agent(app, "chat_agent", "hi", model="hause", policy=ANY_MODEL)
    assert run.reason.startswith("model_unavailable: no model is called 'hause'")


async def test_a_model_that_cannot_be_made_fails_the_run_by_its_name() -> None:
    def broken(**_: object) -> FakeListChatModel:
        raise OSError("no such host")  # noqa: EM101  an app's own

    app = App("own", models={"house": broken})
    run = await arun_agent(app, "chat_agent", "hi", model="house", policy=ANY_MODEL)
    assert run.reason == (
        "model_unavailable: the app's model 'house' cannot be made: OSError: no such host"
    )


async def test_a_listener_of_the_app_is_told_of_its_tools() -> None:
    told: list[str] = []

    def hear(event: CallbackEvent) -> None:
        told.append(f"{event.name} {event.detail}")

    listeners = [Listener(hear, kinds=frozenset({"tool_end"}))]
    app = App("shop", templates=[SHOP], tools=[opening_hours], listeners=listeners)
    await arun_agent(app, "shop", "when?", script=SCRIPT)
    assert told == ["opening_hours 9 to 17"]


async def test_what_is_no_request_is_told_at_once() -> None:
    with pytest.raises(ValidationError, match="user_id"):
        await arun_agent(APP, "shop", "hi", user="")


async def test_an_unfit_app_does_not_run() -> None:
    with pytest.raises(Misconfigured, match=r"no tool is called 'refund'"):
        await arun_agent(App("bad", templates=[SHOP.model_copy(update={"tools": ("refund",)})]))


async def test_a_run_that_takes_too_long_is_told_so() -> None:
    with pytest.raises(TimeoutError):
        await arun_agent(None, "chat_agent", "hi", script="hang", timeout_s=0.2)


def test_an_agent_answers_with_a_tool_of_an_mcp_server(tmp_path: Path) -> None:
    server = official_program(tmp_path / "log")
    template = AgentTemplate(name="support", kind="react", tools=("orders.lookup",))
    app = App("support", templates=[template], mcp_servers=[server])
    script = 'call: orders_lookup {"order": "7"}; say: {tool_result}'
    assert run_agent(app, "support", "where is it?", script=script).output == (
        "order 7 is on its way"
    )


def test_what_is_no_mcp_server_and_two_of_one_name_are_told(tmp_path: Path) -> None:
    server = official_program(tmp_path / "log")
    with pytest.raises(Misconfigured, match="mcp_servers\\[0\\]: must be an McpServer, not 5"):
        run_agent(App("a", mcp_servers=[5]))  # type: ignore[list-item]
    with pytest.raises(Misconfigured, match="mcp_servers: there are two MCP servers called"):
        run_agent(App("a", mcp_servers=[server, server]))


async def test_in_a_running_event_loop_it_says_what_to_await() -> None:
    with pytest.raises(CannotRun, match="await arun_agent"):
        run_agent(APP, "shop", "hi")


async def test_what_is_no_app_is_refused_and_a_run_is_shown_in_a_line() -> None:
    with pytest.raises(Misconfigured, match="an app is an `App`, or none, not 'orders'"):
        await arun_agent("orders", "chat_agent", "hi")  # type: ignore[arg-type]
    run = await arun_agent(None, "chat_agent", "hi", script="say: hello")
    assert repr(run) == "AgentRun(completed, 'hello', 0 steps)"
    failed = await arun_agent(None, "chat_agent", "hi", script="fail: out of order")
    assert repr(failed).startswith("AgentRun(failed, failed: out of order, ")


async def test_a_request_that_no_record_holds_is_refused_by_its_size() -> None:
    with pytest.raises(InputTooLarge, match="the request has 3,000,"):
        await arun_agent(None, "chat_agent", "x" * 3_000_000, script="say: hello")


async def test_a_conversation_goes_on_in_one_app_and_its_sessions_are_read_at_once() -> None:
    async with InMemoryApp(None, script="say: yes") as memory:
        made = await memory.sessions.create("ada", metadata={"customer": "7"})
        for _ in range(2):
            await memory.run("chat_agent", "go on", session_id=made.session_id)
        told = await memory.sessions.messages("ada", made.session_id)
        assert [one.text for one in told] == ["go on", "yes"] * 2
        kept = await memory.sessions.get("ada", made.session_id)
        assert kept is not None
        assert (kept.turn, kept.metadata) == (2, {"customer": "7"})
        await memory.sessions.close("ada", made.session_id)
        refused = await memory.run("chat_agent", "more", session_id=made.session_id)
        assert refused.reason.startswith("session_closed: ")


async def test_a_tool_is_told_what_was_said_of_the_session() -> None:
    def who(runtime: ToolRuntime[Caller]) -> str:
        """Tell whose session it is."""
        return runtime.context.session_metadata.get("customer", "nobody")

    clerk = AgentTemplate(name="clerk", kind="react", tools=("who",))
    app = App("t", templates=[clerk], tools=[who])
    async with InMemoryApp(app, script="call: who {}; say: {tool_result}") as memory:
        assert (await memory.run("clerk", "?", session_id="new")).output == "nobody"
        await memory.sessions.create("ada", "s", metadata={"customer": "7"})
        assert (await memory.run("clerk", "?", session_id="s")).output == "7"
        await memory.sessions.update("ada", "s", metadata={"customer": "8"})
        assert (await memory.run("clerk", "?", session_id="s")).output == "8"


async def test_a_session_expires_in_memory_too() -> None:
    async with InMemoryApp(None, script="say: hi") as memory:
        await memory.sessions.create("ada", "s", ttl=1)

        async def is_expired() -> bool:
            kept = await memory.sessions.get("ada", "s")
            return kept is not None and kept.state == "expired"

        await eventually(is_expired)
        assert (await memory.run(session_id="s")).reason.startswith("session_expired: ")
