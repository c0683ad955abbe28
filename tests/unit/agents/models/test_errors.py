"""What a provider answers decides whether a run is tried again, by the type of the error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from millstream.agents.executor import RunOutcome
from millstream.agents.factory import AgentFactory
from millstream.agents.models.resolve import resolve_model
from tests.harness.agent_runs import Runs


class Provider:
    """Answers each call with a status, and counts them."""

    def __init__(self, status: int) -> None:
        self._status = status
        self.calls = 0

    async def complete(self, _request: web.Request) -> web.StreamResponse:
        self.calls += 1
        return web.json_response({"error": {"message": "not now"}}, status=self._status)


@asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def asked(url: str) -> RunOutcome:
    def resolve(name: str, **params: object) -> object:
        return resolve_model(name, base_url=url, api_key="key", **params)

    factory = AgentFactory(default_model="openai:one", resolve=resolve)  # type: ignore[arg-type]
    return await Runs(factory).run("hello")


@pytest.mark.parametrize(
    ("status", "retryable", "code"),
    [
        (429, True, "model_failed"),
        (500, True, "model_failed"),
        (503, True, "model_failed"),
        (408, True, "model_failed"),
        (400, False, "failed"),
        (404, False, "failed"),
        (401, False, "model_unavailable"),
    ],
)
async def test_a_provider_s_status_says_whether_to_try_again(
    status: int, code: str, *, retryable: bool
) -> None:
    provider = Provider(status)
    async with serving(provider) as url:
        outcome = await asked(url)
    assert outcome.result.reason is not None
    assert (outcome.retryable, outcome.result.reason.code) == (retryable, code)
    assert str(status) in outcome.result.reason.message
    assert provider.calls == 1  # the client does not try again behind the lane's back


async def test_a_provider_that_is_not_there_may_be_there_later() -> None:
    async with serving(Provider(200)) as url:
        pass
    outcome = await asked(url)
    assert outcome.retryable
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "model_failed"
