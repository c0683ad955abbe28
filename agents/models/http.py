"""The HTTP clients by which models of providers are called, made for many calls at once."""

from __future__ import annotations

import weakref
from contextlib import AsyncExitStack
from typing import Any, Final

from langchain_core.language_models.chat_models import BaseChatModel

from millstream.agents.models.body_watch import watch_body
from millstream.agents.models.openai.connections import Connections

__all__ = ["ProviderHttp"]

# Providers whose LangChain classes are built on `langchain-openai`, and so on OpenAI's client.
_ON_OPENAI_CLIENT: Final = frozenset({"deepseek", "openai", "together", "xai"})


class ProviderHttp:
    """One client per kind of provider, shared by all models; to be closed by who made it.

    OpenAI's client comes with two ways to speak HTTP, and Anthropic's is made like it. Its default
    looks at every connection of its pool for each call, and keeps 100 of them open: with a thousand
    calls in flight it takes more CPU than all else of a run, and the others are opened anew for
    each call. So the other one is used, which is on aiohttp (`docs/PERFORMANCE.md` has the
    figures). Both obey the proxies and certificates that the environment names, and have up to
    1,000 connections; more calls wait.

    Models of Gemini and Ollama have a client each, which is closed with the others. `connections`
    are those of our own client of OpenAI's dialect.
    """

    def __init__(self) -> None:
        self.connections = Connections(serves_loop=True)
        self._clients: dict[str, Any] = {}
        self._models: list[weakref.ref[BaseChatModel]] = []

    def params(self, provider: str) -> dict[str, Any]:
        """Give what a provider's LangChain class is to be made with, where its package is there."""
        if provider == "ollama":
            return {"async_client_kwargs": {"event_hooks": {"response": [watch_body]}}}
        if provider not in _ON_OPENAI_CLIENT:
            return {}
        client = self._client("openai")
        return {} if client is None else {"http_async_client": client}

    def adopt(self, model: BaseChatModel, provider: str) -> None:
        """Give a model that was made its client, or take on the closing of its own."""
        if provider == "anthropic" and (client := self._client("anthropic")) is not None:
            # LangChain's class takes no client, and shares its own among all event loops.
            own: Any = model._async_client  # type: ignore[attr-defined]  # noqa: SLF001
            vars(model)["_async_client"] = own.copy(http_client=client)
        if provider in {"google_genai", "ollama"}:
            self._models = [each for each in self._models if each() is not None]
            self._models.append(weakref.ref(model))

    async def close(self) -> None:
        """Close all connections, whatever one of them raises; no model may be called any more."""
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self.connections.close)
            for client in self._clients.values():
                closing.push_async_callback(client.aclose)
            for each in self._models:
                model: Any = each()
                if hasattr(model, "aclose"):
                    closing.push_async_callback(model.aclose)
                elif model is not None:
                    closing.push_async_callback(model._async_client.close)  # noqa: SLF001  Ollama's

    def _client(self, package: str) -> Any:
        if package not in self._clients:
            try:
                made = _made_by(package)
            except ImportError:
                return None  # LangChain says which package to install
            self._clients[package] = made(event_hooks={"response": [watch_body]})
        return self._clients[package]


def _made_by(package: str) -> Any:
    # Not dependencies of ours.
    if package == "openai":
        from openai import DefaultAioHttpClient  # noqa: PLC0415

        return DefaultAioHttpClient
    from anthropic import DefaultAioHttpClient as AnthropicHttpClient  # noqa: PLC0415

    return AnthropicHttpClient
