"""The clients of providers: shared, on aiohttp, and cut off with the run that calls."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from langchain_core.messages import HumanMessage

from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.resolve import resolve_model
from tests.providers.server import PlayedProvider
from tests.providers.server import serving as played


class Provider:
    """Streams two words to whoever asks it to go on; tells when a caller is gone."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.set()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_chunk("hello "))
        if body["messages"][-1]["content"] == "hang":
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        await response.write(_chunk("world") + b"data: [DONE]\n\n")
        return response


def _chunk(text: str) -> bytes:
    choices = [{"index": 0, "delta": {"role": "assistant", "content": text}}]
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return f"data: {json.dumps({**chunk, 'choices': choices})}\n\n".encode()


@asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.complete)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[ProviderHttp]:
    clients = ProviderHttp()
    yield clients
    await clients.close()


async def test_models_of_a_provider_share_one_client_that_streams(http: ProviderHttp) -> None:
    async with serving(Provider()) as url:
        one, other = (
            resolve_model(f"openai:{name}", http=http, base_url=url, api_key="key")
            for name in ("one", "other")
        )
        assert one.connections is other.connections  # type: ignore[attr-defined]
        pieces = [chunk.text async for chunk in one.astream([HumanMessage("go on")])]
    assert [piece for piece in pieces if piece] == ["hello ", "world"]


async def test_models_of_langchains_class_share_one_client(http: ProviderHttp) -> None:
    one, other = (
        resolve_model(f"langchain:openai:{name}", http=http, base_url="http://x", api_key="key")
        for name in ("one", "other")
    )
    assert one.http_async_client is other.http_async_client  # type: ignore[attr-defined]
    assert type(one.http_async_client).__name__ == "_InstalledAioHttpClient"  # type: ignore[attr-defined]


async def test_a_call_that_is_cancelled_leaves_its_provider(http: ProviderHttp) -> None:
    provider = Provider()
    async with serving(provider) as url:
        model = resolve_model("openai:one", http=http, base_url=url, api_key="key")
        call = asyncio.create_task(model.ainvoke([HumanMessage("hang")]))
        await provider.asked.wait()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        await asyncio.wait_for(provider.left.wait(), timeout=5)


async def test_models_of_anthropic_share_one_client(http: ProviderHttp) -> None:
    one, other = (
        resolve_model(f"anthropic:{name}", http=http, base_url="http://127.0.0.1:9", api_key="key")
        for name in ("one", "other")
    )
    used: list[Any] = [model._async_client for model in (one, other)]  # type: ignore[attr-defined]
    assert used[0]._client is used[1]._client
    assert used[0].max_retries == 0
    assert not used[0]._client.is_closed
    await http.close()
    assert used[0]._client.is_closed


@pytest.mark.parametrize("name", ["google_genai:one", "ollama:one"])
async def test_a_client_of_a_model_s_own_is_closed_with_the_others(name: str) -> None:
    answer = {"says": ["hello ", "world"]}
    provider = PlayedProvider({"go on": [answer]}, {}, now_s=lambda: 0.0)
    http = ProviderHttp()
    async with played(provider) as url:
        model = resolve_model(name, http=http, base_url=url, api_key="key")
        said = await anext(model.astream([HumanMessage("go on")]))
        assert said.text == "hello "
        await http.close()
    del model
    gc.collect()  # what is left open warns as it is collected, and a warning is an error here


def test_a_model_that_is_gone_is_not_kept_for_its_closing(http: ProviderHttp) -> None:
    for _ in range(8):
        resolve_model("ollama:one", http=http, base_url="http://127.0.0.1:9")
        gc.collect()
    assert len(http._models) == 1
