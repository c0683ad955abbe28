"""A client session with an MCP server: one connection of either kind, its list and its calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Final

import anyio
import httpx
from mcp import ClientSession, McpError, types
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.session import RequestResponder
from typing_extensions import override

from millstream.agents.mcp.credentials import Credentials
from millstream.agents.mcp.failures import (
    McpFailed,
    McpNotMade,
    McpSessionGone,
    McpUnanswered,
)
from millstream.agents.mcp.http_guard import GONE, NOT_SENT, SENT, GuardedHttp
from millstream.agents.mcp.server import McpServer
from millstream.agents.mcp.stdio import running_program

__all__ = ["Session", "open_session"]

PAGES_MAX: Final = 100
WORDS_CHARS_MAX: Final = 1_000
CANCEL_WITHIN_S: Final = 1.0

# Not `request timeout` of the SDK: that is the code by which it says that it waited in vain.
_TIMED_OUT: Final = int(httpx.codes.REQUEST_TIMEOUT)
_OURS: Final[Mapping[int, type[McpFailed]]] = {
    NOT_SENT: McpNotMade,
    GONE: McpSessionGone,
    SENT: McpUnanswered,
}

# With which servers, and what stands before them, give up on a call that they began: JSON-RPC's
# internal error, and the codes of the SDKs for a connection and a time that ended.
_OPEN: Final = frozenset({types.INTERNAL_ERROR, types.CONNECTION_CLOSED, -32_001})


class Session(ClientSession):
    """Calls a server's tools. Sampling, elicitation and roots are not offered, and refused.

    `ended` is set once nothing can be asked any more.
    """

    server: McpServer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ended = asyncio.Event()
        self._asking: set[anyio.CancelScope] = set()

    @override
    async def _receive_loop(self) -> None:
        try:
            await super()._receive_loop()
        finally:
            # The SDK may leave who waits for an answer waiting, where it is cancelled itself.
            self.ended.set()
            for scope in self._asking:
                scope.cancel()

    async def list_all(self) -> list[types.Tool]:
        """Give all tools of the server, up to its `tools_max` and 100 pages; raises `McpFailed`."""
        server = self.server
        tools: list[types.Tool] = []
        cursor: str | None = None
        seen: set[str] = set()
        for _ in range(PAGES_MAX):
            params = None if cursor is None else types.PaginatedRequestParams(cursor=cursor)
            page = await self._asked(
                types.ClientRequest(types.ListToolsRequest(params=params)),
                types.ListToolsResult,
                server.connect_timeout_s,
            )
            tools += page.tools
            cursor = page.nextCursor
            # A cursor that does not advance is one without an end (codebase-memory-mcp#1247).
            if not cursor or cursor in seen or len(tools) > server.tools_max:
                break
            seen.add(cursor)
        return tools

    async def call(
        self, tool: str, arguments: Mapping[str, Any], meta: Mapping[str, Any] | None
    ) -> types.CallToolResult:
        """Call a tool; raises `McpFailed`. A call that is cancelled is cancelled at the server."""
        params: dict[str, Any] = {"name": tool, "arguments": dict(arguments)}
        if meta:
            params["_meta"] = dict(meta)
        result: types.CallToolResult = await self._asked(
            types.ClientRequest(
                types.CallToolRequest(params=types.CallToolRequestParams.model_validate(params))
            ),
            types.CallToolResult,
            self.server.timeout_s,
        )
        return result

    async def _asked(self, request: types.ClientRequest, kind: type[Any], timeout_s: float) -> Any:
        name = self.server.name
        with anyio.CancelScope() as scope:
            self._asking.add(scope)
            try:
                return await self._answered(request, kind, timeout_s)
            finally:
                self._asking.discard(scope)
        message = f"the MCP server {name!r} broke off"
        raise McpUnanswered(message)

    async def _answered(
        self, request: types.ClientRequest, kind: type[Any], timeout_s: float
    ) -> Any:
        request_id = self._request_id
        name = self.server.name
        try:
            return await self.send_request(request, kind, timedelta(seconds=timeout_s))
        except asyncio.CancelledError:
            # The SDK tells the server nothing (python-sdk#2507): it would go on for nobody.
            await self._cancel(request_id, "the call was cancelled")
            raise
        except McpError as error:
            if error.error.code == _TIMED_OUT:
                await self._cancel(request_id, "the call took too long")
                message = f"the MCP server {name!r} did not answer within {timeout_s:g} s"
                raise McpUnanswered(message) from None
            raise _failure(name, error.error) from None
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            message = f"the MCP server {name!r} is not connected"
            raise McpNotMade(message) from None
        except ValueError as error:
            message = f"the MCP server {name!r} answered what is no answer: {_first_line(error)}"
            raise McpUnanswered(message) from None

    async def _cancel(self, request_id: int | str, reason: str) -> None:
        note = types.CancelledNotification(
            params=types.CancelledNotificationParams(requestId=request_id, reason=reason)
        )
        with (
            anyio.CancelScope(shield=True),
            suppress(anyio.ClosedResourceError, anyio.BrokenResourceError),
            anyio.move_on_after(CANCEL_WITHIN_S),
        ):
            await self.send_notification(types.ClientNotification(note))


@asynccontextmanager
async def open_session(
    server: McpServer,
    credentials: Credentials,
    base_environment: Mapping[str, str],
    *,
    on_list_changed: Callable[[], Awaitable[None]],
) -> AsyncIterator[Session]:
    """Connect to a server, and greet it within `connect_timeout_s`.

    Raises `McpFailed`, and `Misconfigured` where its credentials cannot be read. To be left by the
    task that entered it.
    """

    async def heard(
        message: RequestResponder[types.ServerRequest, types.ClientResult]
        | types.ServerNotification
        | Exception,
    ) -> None:
        if isinstance(message, types.ServerNotification) and isinstance(
            message.root, types.ToolListChangedNotification
        ):
            await on_list_changed()

    async with AsyncExitStack() as stack:
        if server.url is None:
            environment = {**base_environment, **credentials.environment()}
            read, write = await stack.enter_async_context(running_program(server, environment))
        else:
            credentials.headers()
            client = await stack.enter_async_context(_client(server, credentials))
            read, write, _ = await stack.enter_async_context(
                streamable_http_client(server.url, http_client=client)
            )
        session = Session(
            read,
            write,
            message_handler=heard,
            client_info=types.Implementation(name="millstream", version="0.1"),
        )
        session.server = server
        await stack.enter_async_context(session)
        await _greet(server, session)
        yield session


def _client(server: McpServer, credentials: Credentials) -> httpx.AsyncClient:
    timeout = httpx.Timeout(
        server.connect_timeout_s, read=max(server.timeout_s, server.connect_timeout_s) + 1
    )
    guard = GuardedHttp(
        server.name,
        credentials,
        answer_bytes_max=server.answer_bytes_max,
        inner=httpx.AsyncHTTPTransport(),
    )
    # Without the environment's proxies: they would get the credentials.
    return httpx.AsyncClient(transport=guard, timeout=timeout, trust_env=False)


async def _greet(server: McpServer, session: Session) -> None:
    try:
        async with asyncio.timeout(server.connect_timeout_s):
            await session.initialize()
    except TimeoutError:
        message = f"the MCP server {server.name!r} did not answer within "
        raise McpFailed(f"{message}{server.connect_timeout_s:g} s") from None
    except McpError as error:
        words = error.error.message[:WORDS_CHARS_MAX]
        if error.error.code == types.CONNECTION_CLOSED:
            words = f"the MCP server {server.name!r} ended as it was greeted"
        raise McpFailed(words) from None
    except (ValueError, RuntimeError) as error:
        message = f"the MCP server {server.name!r} greets as no MCP server does: "
        raise McpFailed(message + _first_line(error)) from None


def _failure(server: str, error: types.ErrorData) -> McpFailed:
    code, words = error.code, error.message[:WORDS_CHARS_MAX]
    if (kind := _OURS.get(code)) is not None:
        return kind(words)
    # Its code is used by servers as well, for whatever they like.
    if code == types.CONNECTION_CLOSED and words == "Connection closed":
        return McpUnanswered(f"the MCP server {server!r} broke off")
    kind = McpUnanswered if code in _OPEN else McpFailed
    return kind(f"the MCP server {server!r} refused: {words} (code {code})")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:WORDS_CHARS_MAX]
