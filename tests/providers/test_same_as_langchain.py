"""What comes of an answer is the same by our client and by LangChain's class, and by our call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.rate_limiters import InMemoryRateLimiter

from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.models.errors import as_foreseen
from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.resolve import resolve_model
from millstream.agents.models.usage import DOUBT
from millstream.agents.sessions.checkpointer import RunCheckpointer
from tests.harness.agent_runs import NOW_MS, Runs
from tests.providers.case import REPORTED, Case, load_cases
from tests.providers.server import PlayedProvider, serving

COMMON = {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": "fake"}
OWN, LANGCHAINS = "openai:fake", "langchain:openai:fake"

# What an answer is told to be by the model's class, and is no part of it.
_OF_CLASS = {"id", "type", "name", "example"}

# What LangChain's class does not read: calls without a number, an end without a delta.
_READ_BY_OURS_ALONE = {"calls-without-a-number"}

# OpenAI's client warns of figures that are no whole numbers as it hands them on.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")


@dataclass
class Played:
    """A server that gives each answer of a case to an input of its own, and its models."""

    provider: PlayedProvider
    url: str
    http: ProviderHttp

    def model(self, name: str) -> BaseChatModel:
        return resolve_model(name, http=self.http, base_url=self.url, api_key="key", max_tokens=256)


@asynccontextmanager
async def playing(case: Case) -> AsyncIterator[Played]:
    answers = {
        f"{asked} {number}": [answer]
        for asked, listed in case.server.items()
        for number, answer in enumerate(listed)
    }
    provider, http = PlayedProvider(answers, COMMON, now_s=lambda: 0.0), ProviderHttp()
    async with serving(provider) as url:
        yield Played(provider, url, http)
        await http.close()


def of_chat_completions(but: Collection[str] = ()) -> list[pytest.ParameterSet]:
    cases = [*load_cases(), *load_cases(REPORTED)]
    return [
        pytest.param(case, id=case.file)
        for case in cases
        if case.file not in but
        and not case.model.get("use_responses_api")
        and {asked.get("model", OWN) for asked in case.requests} == {OWN}
    ]


async def heard(played: Played, model: BaseChatModel, asked: str) -> dict[str, Any]:
    """Give what a model says and raises, and what its server was sent."""
    pieces: list[Any] = []
    whole: AIMessageChunk | None = None
    error: BaseException | None = None
    before = len(played.provider.calls)
    try:
        async for piece in model.astream(asked):
            assert isinstance(piece, AIMessageChunk)
            pieces.append((piece.text, len(piece.tool_call_chunks)))
            whole = piece if whole is None else whole + piece
    except Exception as raised:  # noqa: BLE001  what it is, is compared
        error = raised
    foreseen = None if error is None else as_foreseen(error)
    message = {} if whole is None else whole.model_dump(exclude=_OF_CLASS)
    if DOUBT in message.get("response_metadata", {}):
        # How a figure beyond 64 bits reads is each client's own.
        message["response_metadata"][DOUBT] = True
    return {
        "message": message,
        "pieces": [piece for piece in pieces if piece != ("", 0)],
        "error": type(error if foreseen is None else foreseen),
        "retry_after_s": getattr(foreseen, "retry_after_s", None),
        "asked": [_without_form(call.body) for call in played.provider.calls[before:]],
    }


def _without_form(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "stream"}


@pytest.mark.parametrize("case", of_chat_completions(but=_READ_BY_OURS_ALONE))
async def test_our_client_gives_what_langchains_class_gives(case: Case) -> None:
    async with playing(case) as played:
        own, langchains = played.model(OWN), played.model(LANGCHAINS)
        for asked in played.provider.answers:
            by_own = await heard(played, own, asked)
            assert by_own == await heard(played, langchains, asked), asked


async def left_by(model: BaseChatModel, asked: str) -> dict[str, Any]:
    """Give all that a run of `chat_agent` leaves, but for ids that are its own."""
    steps: list[CallbackEvent] = []

    async def hear(event: CallbackEvent) -> None:
        steps.append(event)

    factory = AgentFactory(default_model=OWN, resolve=lambda *_, **__: model)
    runs = Runs(factory, coalesce_s=60)
    executor = AgentExecutor(factory, coalesce_s=60, clock_ms=lambda: NOW_MS, on_event=hear)
    outcome = await runs.run(asked, executor=executor)
    state = outcome.checkpoint and RunCheckpointer(outcome.checkpoint, factory.list()[0]).messages
    return {
        "result": outcome.result.model_dump(),
        "retryable": outcome.retryable,
        "calls": outcome.calls,
        "tokens": [token.text for token in runs.tokens],
        "steps": [(step.kind, step.name, step.detail) for step in steps],
        "state": [message.model_dump(exclude={"id"}) for message in state or ()],
    }


@pytest.mark.parametrize("name", [OWN, LANGCHAINS])
@pytest.mark.parametrize("case", of_chat_completions())
async def test_a_call_without_langchain_around_it_leaves_what_one_with_it_leaves(
    name: str, case: Case
) -> None:
    async with playing(case) as played:
        # Which LangChain alone can keep to: such a model is called by its `ainvoke`.
        limited = played.model(name)
        limited.rate_limiter = InMemoryRateLimiter(
            requests_per_second=1e6, check_every_n_seconds=1e-4, max_bucket_size=1e6
        )
        model = played.model(name)
        for asked in played.provider.answers:
            by_own = await left_by(model, asked)
            assert by_own == await left_by(limited, asked), asked
