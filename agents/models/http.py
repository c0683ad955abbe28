"""The HTTP clients by which models of providers are called, made for many calls at once."""

from __future__ import annotations

from typing import Any, Final

from millstream.agents.models.body_watch import watch_body

__all__ = ["ProviderHttp"]

# Providers whose LangChain classes are built on `langchain-openai`, and so on OpenAI's client.
_ON_OPENAI_CLIENT: Final = frozenset({"deepseek", "openai", "together", "xai"})


class ProviderHttp:
    """One client per kind of provider, shared by all models; to be closed by who made it.

    OpenAI's client comes with two ways to speak HTTP. Its default looks at every connection of its
    pool for each call, and keeps 100 of them open: with a thousand calls in flight it takes more
    CPU than all else of a run, and the others are opened anew for each call. So the other one is
    used, which is on aiohttp (`docs/PERFORMANCE.md` has the figures). Both obey the proxies and
    certificates that the environment names, and have up to 1,000 connections; more calls wait.
    """

    def __init__(self) -> None:
        self._openai: Any = None

    def params(self, provider: str) -> dict[str, Any]:
        """Give what a provider's LangChain class is to be made with, where its package is there."""
        if provider not in _ON_OPENAI_CLIENT:
            return {}
        if self._openai is None:
            try:
                from openai import DefaultAioHttpClient  # noqa: PLC0415  not a dependency of ours
            except ImportError:
                return {}  # LangChain says which package to install
            self._openai = DefaultAioHttpClient(event_hooks={"response": [watch_body]})
        return {"http_async_client": self._openai}

    async def close(self) -> None:
        """Close the connections; no model may be called any more."""
        if self._openai is not None:
            await self._openai.aclose()
