from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

from millstream.agents.factory import AgentFactory
from millstream.agents.mcp.server import McpServer
from millstream.agents.mcp.tools import McpTools
from millstream.agents.models.scripted.model import ScriptedChatModel
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import Caller, ToolRegistry, ToolRules, built_in_tools
from millstream.schemas.errors import Misconfigured
from tests.fakes.mcp.over_http import free_port, served
from tests.harness.agent_runs import Runs, resolved
from tests.harness.mcp import OpenTools, official_program, open_tools
from tests.support.waiting import eventually


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def noted(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def runs_with(opened: OpenTools, *tools: str) -> Runs:
    template = AgentTemplate(name="own", kind="react", tools=tools)
    templates = (*BUILT_IN_TEMPLATES, template)
    return Runs(AgentFactory(default_model="scripted", templates=templates, tools=opened.registry))


async def answer(runs: Runs, script: str) -> str | None:
    return (await runs.run(script, template="own")).result.output


@pytest.mark.parametrize("named", ["orders.lookup", "orders_lookup", "orders.*", "orders.look*"])
async def test_an_agent_whose_template_names_an_mcp_tool_answers_with_it(
    log: Path, named: str
) -> None:
    async with open_tools(official_program(log)) as opened:
        runs = runs_with(opened, named)
        script = 'call: orders_lookup {"order": "7"}; say: it says {tool_result}'
        assert await answer(runs, script) == "it says order 7 is on its way"


async def test_a_call_that_fails_is_told_to_the_model_and_the_run_goes_on(log: Path) -> None:
    reads = {"exits": "read_only", "slow": "read_only"}
    async with open_tools(official_program(log, effects=reads)) as opened:
        runs = runs_with(opened, "orders.*", "calculator")
        told = await answer(runs, "call: orders_fails {}; say: {tool_result}")
        assert told == "Error executing tool fails: no such order: look at the number again"
        told = await answer(runs, "call: orders_exits {}; say: {tool_result}")
        assert told is not None
        assert "the MCP server 'orders' broke off" in told
        script = 'call: calculator {"expression": "1+1"}; say: {tool_result}'
        assert await answer(runs, script) == "2"
    async with open_tools(official_program(log, timeout_s=0.3, effects=reads)) as opened:
        runs = runs_with(opened, "orders.slow")
        told = await answer(runs, "call: orders_slow {}; say: {tool_result}")
        assert told is not None
        assert "the MCP server 'orders' did not answer within 0.3 s" in told


async def test_a_server_is_told_of_the_caller_what_the_app_says_and_no_more(log: Path) -> None:
    caller = Caller(
        tenant="acme",
        user_id="ada",
        request_id="r1",
        session_id="s1",
        attempt=1000,
        deadline_ms=0,
        template="own",
        model="scripted",
        idempotency_key="k1",
    )
    async with open_tools(
        official_program(log),
        official_program(log, name="told", send_caller=("user", "idempotency_key")),
    ) as opened:
        tools = opened.registry.pick(["orders_asked_by", "told_asked_by"])
        graph: Any = create_agent(ScriptedChatModel(), tools)

        async def said(tool: str) -> str:
            question = HumanMessage(f"call: {tool} {{}}; say: {{tool_result}}")
            state = await graph.ainvoke({"messages": [question]}, context=caller)
            return str(state["messages"][-1].text)

        assert await said("orders_asked_by") == "(nothing)"
        assert json.loads(await said("told_asked_by")) == {
            "millstream/user": "ada",
            "millstream/idempotency_key": "k1",
        }


async def test_wrong_arguments_are_not_sent_and_a_long_result_is_cut(log: Path) -> None:
    async with open_tools(official_program(log, result_bytes_max=300)) as opened:
        runs = runs_with(opened, "orders.*")
        told = await answer(runs, 'call: orders_lookup {"order": 7}; say: {tool_result}')
        assert told is not None
        assert "this call was not made: $.order" in told
        told = await answer(runs, 'call: orders_large {"count": 100000}; say: {tool_result}')
        assert told is not None
        assert len(told) < 400
        assert "100000 bytes" in told
    assert "lookup" not in noted(log)


async def test_tools_have_effects_unless_a_trusted_server_or_the_app_says_otherwise(
    log: Path,
) -> None:
    def effects(opened: OpenTools) -> list[str]:
        names = ("orders_lookup", "orders_refund", "orders_fails")
        return [opened.registry.rules(name).effect for name in names]

    async with open_tools(official_program(log)) as opened:
        assert effects(opened) == ["ask_human"] * 3
        plan = runs_with(opened, "orders.lookup").factory.plan(resolved("hi", template="own"))
        assert plan.has_effects
    async with open_tools(official_program(log, trusted=True)) as opened:
        assert effects(opened) == ["read_only", "idempotent", "ask_human"]
        plan = runs_with(opened, "orders.lookup").factory.plan(resolved("hi", template="own"))
        assert not plan.has_effects
    async with open_tools(official_program(log, effects={"fail*": "read_only"})) as opened:
        assert effects(opened) == ["ask_human", "ask_human", "read_only"]


async def test_a_template_of_a_server_that_is_down_is_served_and_has_the_tools_when_it_comes(
    log: Path,
) -> None:
    port = free_port()
    server = McpServer(name="orders", url=f"http://127.0.0.1:{port}/mcp")
    async with open_tools(server) as opened:
        runs = runs_with(opened, "orders.*")
        told = await answer(runs, "call: orders_unavailable {}; say: {tool_result}")
        assert told is not None
        assert "the MCP server 'orders' cannot be reached" in told
        before = runs.factory.plan(resolved("hi", template="own")).input_tokens_max
        with served(log, port=port):
            await eventually(lambda: opened.tools.status()[0].problem is None)
            script = 'call: orders_lookup {"order": "7"}; say: {tool_result}'
            assert await answer(runs, script) == "order 7 is on its way"
        # What its calls may cost is reckoned with the tools that it has now.
        assert runs.factory.plan(resolved("hi", template="own")).input_tokens_max > before


async def test_a_name_that_is_nobodys_is_a_mistake_and_one_of_a_listed_server_says_so_to_the_model(
    log: Path,
) -> None:
    async with open_tools(official_program(log)) as opened:
        with pytest.raises(Misconfigured, match="no tool is called 'order_lookup'"):
            runs_with(opened, "order_lookup")
        runs = runs_with(opened, "orders.nothing")
        told = await answer(runs, "call: orders_nothing {}; say: {tool_result}")
        assert told is not None
        assert "the MCP server 'orders' does not offer it: the call was not made" in told


async def test_two_servers_of_one_name_and_two_tools_of_one_name_are_mistakes(log: Path) -> None:
    one = official_program(log, prefix=False)
    with pytest.raises(Misconfigured, match="two MCP servers called 'orders'"):
        McpTools([one, one], environment={})
    with pytest.raises(Misconfigured, match="both have a tool that would be called 'lookup'"):
        async with open_tools(one, official_program(log, name="others", prefix=False)):
            pass
    registry = ToolRegistry(built_in_tools())
    (known,) = registry.pick(["calculator"])
    with pytest.raises(Misconfigured, match="two tools called 'calculator'"):
        registry.replace(known.model_copy(), ToolRules())
    async with open_tools(one) as opened:
        another = known.model_copy(update={"name": "lookup"})
        with pytest.raises(Misconfigured, match="two tools called 'lookup', one a server"):
            opened.registry.register(another)


async def test_a_credential_that_cannot_be_read_is_told_at_the_start(tmp_path: Path) -> None:
    server = McpServer(name="a", url="http://127.0.0.1:9", bearer_token_file=tmp_path / "none")
    with pytest.raises(Misconfigured, match="the MCP server 'a', bearer_token_file: "):
        async with open_tools(server):
            pass


def test_without_servers_nothing_is_imported_and_no_thread_started() -> None:
    program = """
import asyncio, sys, threading
from millstream.agents.mcp.server import McpServer
from millstream.agents.mcp.tools import McpTools
from millstream.agents.tools import ToolRegistry

async def main():
    tools = McpTools([], environment={})
    await tools.open(ToolRegistry())
    await tools.close()

McpServer(name="a", command="b")
asyncio.run(main())
print([name for name in ("mcp", "langchain_mcp_adapters") if name in sys.modules],
      [one.name for one in threading.enumerate() if one.name == "mcp"])
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[] []"
