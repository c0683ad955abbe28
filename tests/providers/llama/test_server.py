"""Runs with llama.cpp's server as their provider: what no server of our own would do otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.resolve import resolve_model
from millstream.agents.templates.memory import LastTurns
from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from millstream.schemas.events import AgentToken
from tests.harness.agent_runs import Runs
from tests.providers.llama.server import CONTEXT_TOKENS, LlamaServer, llama_server
from tests.support import eventually

pytestmark = [pytest.mark.model, pytest.mark.timeout(60)]

STORY = "Write a long story about the sea."
WORDS = "The sea is wide and deep. "
"""Seven tokens."""


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[LlamaServer]:
    async with llama_server() as server:
        yield server


@dataclass
class Client:
    """Runs of the built-in templates with a server's model, and the names of the tools called."""

    runs: Runs
    executor: AgentExecutor
    called: list[str]

    async def run(self, text: str, template: str = "chat_agent", **fields: Any) -> RunOutcome:
        outcome = await self.runs.run(text, executor=self.executor, template=template, **fields)
        self.runs.assert_text_is_the_tokens(outcome)
        return outcome


@pytest.fixture
async def http() -> AsyncIterator[ProviderHttp]:
    http = ProviderHttp()
    yield http
    await http.close()


def client_of(server: LlamaServer, http: ProviderHttp, **template: Any) -> Client:
    called: list[str] = []

    async def note(event: CallbackEvent) -> None:
        if event.kind == "tool_start":
            called.append(event.name or "")

    resolve = partial(
        resolve_model, http=http, base_url=server.url, api_key="key", temperature=0, seed=7,
        # As a deployment says that its server holds answers to a schema.
        profile={"structured_output": True},
    )  # fmt: skip
    templates = [each.model_copy(update=template) for each in BUILT_IN_TEMPLATES]
    factory = AgentFactory(default_model="openai:smollm2", templates=templates, resolve=resolve)
    return Client(Runs(factory), AgentExecutor(factory, on_event=note), called)


async def test_tokens_come_as_they_are_written_and_the_usage_is_the_servers(
    server: LlamaServer, http: ProviderHttp
) -> None:
    client, before = client_of(server, http), await server.spent()
    outcome = await client.run("What is the capital of France?")
    assert outcome.result.status == "completed", outcome.result.reason
    assert outcome.result.output is not None
    assert "Paris" in outcome.result.output
    assert outcome.result.finish_reason == "stop"
    assert len(client.runs.tokens) > 1
    used = outcome.result.usage
    spent = (await server.spent()).since(before)
    assert (used.input_tokens, used.output_tokens) == (spent.read, spent.written)
    assert not any(call.estimate_reason for call in outcome.calls)


async def test_a_limit_of_tokens_is_the_servers_too(
    server: LlamaServer, http: ProviderHttp
) -> None:
    before = await server.spent()
    outcome = await client_of(server, http, output_tokens_max=5).run(STORY)
    assert (outcome.result.status, outcome.result.finish_reason) == ("completed", "length")
    assert outcome.result.usage.output_tokens == 5
    assert (await server.spent()).since(before).written == 5


async def test_an_answer_ends_where_the_context_does(
    server: LlamaServer, http: ProviderHttp
) -> None:
    # llama.cpp's issue 10393: the stream seemed to break there.
    client = client_of(server, http, output_tokens_max=2000)
    outcome = await client.run(WORDS * 60 + STORY)
    assert (outcome.result.status, outcome.result.finish_reason) == ("completed", "length")
    used = outcome.result.usage
    assert used.input_tokens + used.output_tokens <= CONTEXT_TOKENS
    assert not any(call.estimate_reason for call in outcome.calls)


async def test_tools_are_called_as_the_server_tells(
    server: LlamaServer, http: ProviderHttp
) -> None:
    client, before = client_of(server, http), await server.spent()
    outcome = await client.run("Use calculator.", template="react_agent")
    assert outcome.result.status == "completed", outcome.result.reason
    assert client.called[0] == "calculator"
    assert outcome.result.output
    assert "tool_call" not in outcome.result.output
    assert len(outcome.calls) >= 2
    spent = (await server.spent()).since(before)
    used = outcome.result.usage
    assert (used.input_tokens, used.output_tokens) == (spent.read, spent.written)


async def test_an_answer_is_held_to_its_schema_by_the_server(
    server: LlamaServer, http: ProviderHttp
) -> None:
    outcome = await client_of(server, http).run("What is a river?", template="structured_agent")
    assert outcome.result.status == "completed", outcome.result.reason
    assert outcome.result.structured is not None
    assert set(outcome.result.structured) == {"answer", "keywords"}


async def test_a_structured_answer_that_the_limit_cuts_fails(
    server: LlamaServer, http: ProviderHttp
) -> None:
    client = client_of(server, http, output_tokens_max=5)
    outcome = await client.run("What is a river?", template="structured_agent")
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "answer_cut"
    assert outcome.result.structured is None


async def test_a_question_that_is_longer_than_the_context_is_refused_and_costs_nothing(
    server: LlamaServer, http: ProviderHttp
) -> None:
    before = await server.spent()
    outcome = await client_of(server, http).run(WORDS * 100)
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "input_too_long"
    assert not outcome.retryable
    assert outcome.calls == ()
    assert (await server.spent()).since(before).written == 0


async def test_earlier_turns_that_are_too_long_for_the_context_are_dropped(
    server: LlamaServer, http: ProviderHttp
) -> None:
    client = client_of(server, http, memory=LastTurns(tokens_max=100_000))
    asked = WORDS * 40 + "What is the capital of France?"
    assert (await client.run(asked)).result.status == "completed"
    outcome = await client.run(asked)
    assert outcome.result.status == "completed", outcome.result.reason
    assert len(outcome.calls) == 1
    assert 300 < outcome.result.usage.input_tokens < 400


async def begun(client: Client, **fields: Any) -> asyncio.Task[RunOutcome]:
    """Begin a run whose answer takes long, and wait until it is being written."""
    writes = asyncio.Event()

    async def emit(_: AgentToken) -> None:
        writes.set()

    running = asyncio.create_task(client.runs.run(STORY, emit=emit, **fields))
    waiting = asyncio.create_task(writes.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    assert not running.done()
    return running


async def stops(server: LlamaServer) -> bool:
    return not await server.is_busy()


async def test_a_run_that_is_cancelled_stops_the_server(
    server: LlamaServer, http: ProviderHttp
) -> None:
    # llama.cpp's issue 11720, continue's 764: it went on to write for nobody.
    before = await server.spent()
    running = await begun(client_of(server, http, output_tokens_max=1900))
    assert await server.is_busy()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    await eventually(lambda: stops(server))
    assert (await server.spent()).since(before).written < CONTEXT_TOKENS / 2


async def test_an_attempt_whose_time_is_up_stops_the_server_and_is_estimated(
    server: LlamaServer, http: ProviderHttp
) -> None:
    client = client_of(server, http, output_tokens_max=1900, attempt_timeout_s=0.5)
    before = await server.spent()
    outcome = await client.runs.run(STORY)
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "attempt_timed_out"
    await eventually(lambda: stops(server))
    spent = (await server.spent()).since(before)
    assert spent.written < CONTEXT_TOKENS / 2
    assert outcome.result.usage.output_tokens >= spent.written
    assert any(call.estimate_reason for call in outcome.calls)


async def test_a_server_that_is_killed_while_it_writes_is_a_call_that_broke(
    http: ProviderHttp,
) -> None:
    async with llama_server() as server:
        running = await begun(client_of(server, http, output_tokens_max=1900))
        server.process.kill()
        outcome = await running
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "model_failed"
    assert outcome.retryable
    assert outcome.result.usage.output_tokens > 0
    client = client_of(server, http)
    gone = await client.run("Are you there?")
    assert gone.retryable
    assert gone.result.usage.output_tokens == 0
