"""An endpoint that gives tokens of OAUTHBEARER, or does not."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from millstream.streams.broker.security.given import Given
from millstream.streams.broker.security.kafka_security import TokenSource

__all__ = ["SECRET", "Endpoint", "endpoint"]

SECRET = "s3cret:of/ada"  # noqa: S105  the tests' own

Answers = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Endpoint:
    """Answers what it is told to, and keeps what it was asked."""

    port: int = 0
    status: int = 200
    body: str = json.dumps({"access_token": "t-1", "expires_in": 100})
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    serves: Answers | None = None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        self.headers.append(request.headers["Authorization"])
        user = b64decode(self.headers[-1].removeprefix("Basic ")).decode()
        self.asked.append((user, {k: str(v) for k, v in (await request.post()).items()}))
        if self.serves is not None:
            return await self.serves(request)
        return web.Response(status=self.status, text=self.body, content_type="application/json")

    @property
    def source(self) -> TokenSource:
        """Where clients ask it."""
        return TokenSource(
            Given(f"http://127.0.0.1:{self.port}/token", "URL"),
            Given("ada", "ID"),
            Given(SECRET, "SECRET"),
            Given("kafka", "SCOPE"),
        )


@asynccontextmanager
async def endpoint(serves: Answers | None = None) -> AsyncIterator[Endpoint]:
    """Serve it on this machine; `serves` answers in its place."""
    found = Endpoint(serves=serves)
    app = web.Application()
    app.router.add_post("/token", found.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.port = runner.addresses[0][1]
    try:
        yield found
    finally:
        await runner.cleanup()
