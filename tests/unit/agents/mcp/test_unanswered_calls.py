"""A call of a server's tool that was sent and got no answer: what its effect makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from millstream.agents.attempt import RunOutcome
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.calls import Calls
from millstream.agents.mcp.server import McpServer
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from tests.fakes.mcp.bad_http import BadServer, bad_server
from tests.harness.agent_runs import Runs
from tests.harness.mcp import open_tools

SENT = ["never", "breaks off", "status", "internal"]
REFUSED = ["credentials", "too many", "arguments"]


@pytest.fixture
async def bad() -> AsyncIterator[BadServer]:
    async with bad_server() as server:
        yield server


async def run(bad: BadServer, effect: str, calls: Calls | None = None, **fields: Any) -> RunOutcome:
    """Have an agent call the server's tool once, and say what it was told."""
    given = {"name": "bad", "url": bad.url, "timeout_s": 0.3, "effects": {"do": effect}}
    async with open_tools(McpServer.model_validate(given)) as opened:
        template = AgentTemplate(name="own", kind="react", tools=("bad.do",), **fields)
        templates = (*BUILT_IN_TEMPLATES, template)
        factory = AgentFactory(default_model="scripted", templates=templates, tools=opened.registry)
        script = "call: bad_do {}; say: {tool_result}"
        return await Runs(factory).run(script, template="own", calls=calls or Calls())


def made(bad: BadServer) -> int:
    return [one["method"] for one in bad.requests].count("tools/call")


@pytest.mark.parametrize("mode", SENT)
async def test_a_call_with_an_effect_that_may_have_been_made_ends_the_run_in_doubt(
    bad: BadServer, mode: str
) -> None:
    # Lexus2016/hermes-agent-evolution#1953, mcheemaa/mistri#26: told as failed, it is made twice.
    bad.mode = mode
    calls = Calls()
    reason = (await run(bad, "ask_human", calls)).result.reason
    assert reason is not None
    assert reason.code == "in_doubt"
    assert "the MCP server 'bad'" in reason.message
    assert "(bad_do, " in reason.message
    assert list(calls.in_doubt.values()) == ["bad_do"]
    assert made(bad) == 1


@pytest.mark.parametrize("mode", SENT)
async def test_an_idempotent_call_that_may_have_been_made_is_made_once_more(
    bad: BadServer, mode: str
) -> None:
    bad.mode, bad.then = mode, "well"
    assert (await run(bad, "idempotent")).result.output == "done"
    assert made(bad) == 2


@pytest.mark.parametrize("second", [*SENT, "credentials", "too many"])
async def test_a_second_call_that_is_not_answered_settles_nothing(
    bad: BadServer, second: str
) -> None:
    # Also one that was refused at the door: what became of the first is not known by that.
    bad.mode, bad.then = "breaks off", second
    reason = (await run(bad, "idempotent")).result.reason
    assert reason is not None
    assert reason.code == "in_doubt"
    assert made(bad) == 2


@pytest.mark.parametrize("mode", SENT)
async def test_a_call_that_reads_is_told_to_the_model_as_before(bad: BadServer, mode: str) -> None:
    bad.mode = mode
    output = (await run(bad, "read_only")).result.output
    assert output is not None
    assert "the MCP server 'bad'" in output
    assert made(bad) == 1


@pytest.mark.parametrize("effect", ["read_only", "idempotent", "ask_human"])
@pytest.mark.parametrize("mode", REFUSED)
async def test_a_call_that_the_server_refused_is_told_to_the_model_whatever_its_effect(
    bad: BadServer, mode: str, effect: str
) -> None:
    bad.mode = mode
    calls = Calls()
    output = (await run(bad, effect, calls)).result.output
    assert output is not None
    assert "the MCP server 'bad'" in output
    assert not calls.in_doubt
    assert made(bad) == 1


async def test_a_template_whose_calls_may_be_made_twice_has_it_told_to_the_model(
    bad: BadServer,
) -> None:
    bad.mode = "breaks off"
    output = (await run(bad, "ask_human", in_doubt="retry")).result.output
    assert output is not None
    assert "it is not known whether it did what it was called for" in output
