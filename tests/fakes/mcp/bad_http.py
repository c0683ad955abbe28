"""A server that answers tool calls as none made with the SDK does; the rest it does well."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

__all__ = ["BadServer", "bad_server"]

TOOL = {"name": "do", "description": "Do it.", "inputSchema": {"type": "object"}}


@dataclass
class BadServer:
    """A server that is up. `mode` is how a call is answered, `requests` what it was sent.

    Attributes:
        then: How the calls behind the next one are answered; `None`: as that one.
        tools: What it lists.
        cursor: The cursor that each page of the list ends with; `None`: there is one page.
        headers: Those of each request.
    """

    url: str = ""
    mode: str = "well"
    then: str | None = None
    cursor: str | None = None
    tools: list[dict[str, Any]] = field(default_factory=lambda: [TOOL])
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    elsewhere: str = ""
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        self.headers.append({key.lower(): value for key, value in request.headers.items()})
        if request.method != "POST":
            return web.Response(status=405)
        message = await request.json()
        self.requests.append(message)
        if "id" not in message:
            return web.Response(status=500 if self.mode == "status" else 202)
        match message["method"]:
            case "initialize":
                return _result(
                    message,
                    {
                        "protocolVersion": message["params"]["protocolVersion"],
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "bad", "version": "1"},
                    },
                )
            case "tools/list":
                page: dict[str, Any] = {"tools": self.tools}
                return _result(message, page | ({"nextCursor": self.cursor} if self.cursor else {}))
            case _:
                return await self._call(request, message)

    async def _call(self, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:  # noqa: C901, PLR0911, PLR0912  one for each way
        mode, self.mode, self.then = self.mode, self.then or self.mode, None
        match mode:
            case "status":
                return web.Response(status=500, text="<h1>Internal Server Error</h1>")
            case "credentials":
                return web.Response(status=401)
            case "too many":
                return web.Response(status=429)
            case "arguments" | "internal":
                code = -32_602 if mode == "arguments" else -32_603
                error = {"code": code, "message": "no"}
                return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error})
            case "html":
                return web.Response(text="<h1>Hello</h1>", content_type="text/html")
            case "no json":
                return web.Response(text='{"jsonrpc":', content_type="application/json")
            case "no utf-8":
                return web.Response(body=b'{"jsonrpc": "\xff"}', content_type="application/json")
            case "no json-rpc":
                return web.json_response([1, 2])
            case "no result":
                return web.json_response({"jsonrpc": "2.0", "id": message["id"]})
            case "wrong result":
                return _result(message, {"content": "text"})
            case "wrong id":
                return _result({**message, "id": 999}, {"content": []})
            case "large":
                text = "x" * 10_000_000
                return _result(message, {"content": [{"type": "text", "text": text}]})
            case "redirect":
                return web.Response(status=307, headers={"location": self.elsewhere})
            case "breaks off":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "never":
                await self.let_go.wait()
            case "events end" | "endless events" | "garbage events":
                return await self._events(request, mode)
        return _result(message, {"content": [{"type": "text", "text": "done"}]})

    async def _events(self, request: web.Request, mode: str) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        if mode == "garbage events":
            await answer.write(b"event: message\ndata: {nonsense\n\n")
        while mode == "endless events":
            try:
                await answer.write(b": " + b"x" * 60_000 + b"\n")
            except ConnectionError:
                break
        return answer


def _result(message: dict[str, Any], result: dict[str, Any]) -> web.Response:
    answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
    return web.Response(text=json.dumps(answer), content_type="application/json")


@asynccontextmanager
async def bad_server(**fields: Any) -> AsyncIterator[BadServer]:
    """Serve one on this loop."""
    bad = BadServer(**fields)
    app = web.Application()
    app.router.add_route("*", "/mcp", bad.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    bad.url = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    try:
        yield bad
    finally:
        bad.let_go.set()
        await runner.cleanup()
