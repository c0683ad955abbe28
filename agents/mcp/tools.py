"""The MCP servers of a worker: their tools in its registry, their connections on a loop of theirs.

Agents run on loops that may be blocked and given up, and a session belongs to one loop. So one
thread has a loop for all servers, and calls are handed to it
([0036](docs/decisions/0036-mcp-servers-have-an-event-loop-of-their-own.md)).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
from langchain_core.tools import StructuredTool

from millstream.agents.mcp.failures import McpNotMade
from millstream.agents.mcp.server import Effect, McpServer
from millstream.agents.tools import ToolRegistry, ToolRules
from millstream.schemas.errors import Misconfigured

if TYPE_CHECKING:
    from mcp import types

    from millstream.agents.mcp.connection import Connection
    from millstream.agents.mcp.listing import Listing, Offered

__all__ = ["McpServerStatus", "McpTools"]

T = TypeVar("T")

CLOSED_WITHIN_S: Final = 10.0
CUT_OFF_WITHIN_S: Final = 5.0

# Behind a server's own limit, which is told in better words.
_BEHIND_S: Final = 5.0
_INHERITED: Final = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class McpServerStatus:
    """How a server is: `problem` is why it cannot be used, `None` while it can.

    `tools` are the names that templates have its tools by; `left_out` says which are not offered.
    """

    name: str
    problem: str | None
    tools: tuple[str, ...]
    left_out: tuple[str, ...]


class McpTools:
    """The tools of some servers, in a registry, from `open` to `close`.

    `environment` is that of the worker, of which a program gets the few variables that
    `McpServer` names. Raises `Misconfigured` for two servers of one name, and where the packages
    that speak MCP are missing. With no servers, it does and imports nothing.
    """

    def __init__(self, servers: Iterable[McpServer], *, environment: Mapping[str, str]) -> None:
        given = tuple(servers)
        self._servers = {server.name: server for server in given}
        if len(self._servers) < len(given):
            names = [server.name for server in given]
            twice = next(name for name in names if names.count(name) > 1)
            message = f"there are two MCP servers called {twice!r}: rename one"
            raise Misconfigured(message)
        if given and find_spec("langchain_mcp_adapters") is None:
            message = (
                "MCP servers need packages that are not installed: pip install 'millstream[mcp]'"
            )
            raise Misconfigured(message)
        self._environment = {name: environment[name] for name in _INHERITED if name in environment}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: dict[str, Connection] = {}
        self._thread = threading.current_thread()
        self._running: set[asyncio.Task[None]] = set()
        self._registry: ToolRegistry | None = None
        # What templates asked for, beside what servers list.
        self._named: dict[str, set[str]] = {name: set() for name in self._servers}
        self._stood_in: set[str] = set()
        self._owners: dict[str, str] = {}
        self._turn = threading.Lock()

    def attach(self, registry: ToolRegistry) -> None:
        """Have templates name the servers' tools before they are connected, to be checked."""
        if self._registry is None and self._servers:
            self._registry = registry
            registry.add_source(self.resolve)

    async def open(self, registry: ToolRegistry) -> None:
        """Connect to the servers, and put their tools into the registry; before templates.

        Returns once each server was listed or could not be, within its `connect_timeout_s`: one
        that is down is tried again, and its tools come when it does. Raises `Misconfigured` for
        credentials that cannot be read, and for tools of one name.
        """
        if not self._servers:
            return
        from millstream.agents.mcp.connection import Connection  # noqa: PLC0415  heavy to import
        from millstream.agents.mcp.credentials import Credentials  # noqa: PLC0415

        for server in self._servers.values():
            credentials = Credentials(server)
            credentials.headers()
            credentials.environment()
        self.attach(registry)
        loop = self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=_serve, args=(loop,), name="mcp", daemon=True)
        self._thread.start()
        try:
            await self._on_loop(partial(self._begin, Connection))
            for name, connection in self._connections.items():
                if connection.listing is not None:
                    self._put(name, connection.listing, raises=True)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all connections, and the programs that were started."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        try:
            async with asyncio.timeout(CLOSED_WITHIN_S):
                await asyncio.wrap_future(_handed_over(loop, self._end()))
        finally:
            loop.call_soon_threadsafe(loop.stop)
            await asyncio.to_thread(self._thread.join, CLOSED_WITHIN_S)

    def status(self) -> tuple[McpServerStatus, ...]:
        """Say how each server is; from any thread."""
        told: list[McpServerStatus] = []
        for name, connection in self._connections.items():
            listing = connection.listing
            tools = () if listing is None else listing.matching("*")
            left_out = () if listing is None else listing.problems
            told.append(McpServerStatus(name, connection.problem, tools, left_out))
        return tuple(told)

    def resolve(self, name: str) -> tuple[str, ...] | None:
        """Give the names of the tools that a name in a template means; `None` if no server's.

        `server.tool` and `server.glob` mean tools by their names at the server; the names that
        models see mean themselves. One that is not there now stands for a tool that says so.
        """
        server, tool = self._server_of(name)
        if server is None:
            return None
        listing = self._listing(server.name)
        found = () if listing is None else listing.matching(tool)
        if found:
            return found
        from millstream.agents.mcp.listing import NAME_CHARS_MAX, model_name  # noqa: PLC0415

        is_glob = any(sign in tool for sign in "*?[")
        own = "unavailable" if is_glob else tool
        shown = own if own.startswith(f"{server.name}_") else model_name(server, own)
        shown = shown[:NAME_CHARS_MAX]
        with self._turn:
            if shown not in self._stood_in:
                self._own(server.name, shown)
                self._stand_in(server, shown)
            if not is_glob:
                self._named[server.name].add(shown)
        return (shown,)

    def _listing(self, server: str) -> Listing | None:
        connection = self._connections.get(server)
        return None if connection is None else connection.listing

    def _server_of(self, name: str) -> tuple[McpServer | None, str]:
        prefix, dot, tool = name.partition(".")
        if dot and prefix in self._servers:
            return self._servers[prefix], tool
        assert self._registry is not None  # noqa: S101  it resolves for a registry
        if name in self._registry.names():
            return None, name
        for server in self._servers.values():
            is_listed = self._listing(server.name) is not None
            # It may be one of a server that is down: a typing error shows once it is not.
            if not is_listed and (not server.prefix or name.startswith(f"{server.name}_")):
                return server, name
        return None, name

    async def _begin(self, kind: type[Connection]) -> None:
        for name, server in self._servers.items():
            connection = kind(server, self._environment, on_listed=partial(self._put, name))
            self._connections[name] = connection
            self._running.add(asyncio.ensure_future(connection.run()))
        within_s = max(server.connect_timeout_s for server in self._servers.values())
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(one.first_tried() for one in self._connections.values()))

    async def _end(self) -> None:
        # Connections first: a call that is under way is told that its connection ended.
        for tasks in (self._running, asyncio.all_tasks() - {asyncio.current_task()}):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _put(self, name: str, listing: Listing, *, raises: bool = False) -> None:
        """Put a server's tools into the registry, and say so in place of those that are gone."""
        registry, server = self._registry, self._servers[name]
        assert registry is not None  # noqa: S101  it was opened
        with self._turn:
            named = self._named[name]
            shown = set()
            for offered in listing.tools.values():
                call = partial(self._call, name, offered)
                try:
                    self._own(name, offered.name)
                    registry.replace(_tool(server, offered, call), _rules(server, offered.effect))
                except Misconfigured as error:
                    if raises:
                        raise
                    _log.error("an MCP server's tool is left out", server=name, why=str(error))
                else:
                    shown.add(offered.name)
                    self._stood_in.discard(offered.name)
            for gone in named - shown:
                self._stand_in(server, gone)
            named |= shown

    def _own(self, server: str, name: str) -> None:
        owner = self._owners.setdefault(name, server)
        if owner != server:
            message = (
                f"the MCP servers {owner!r} and {server!r} both have a tool that would be called "
                f"{name!r}: give one of them `prefix=True`, or another name"
            )
            raise Misconfigured(message)

    def _stand_in(self, server: McpServer, name: str) -> None:
        """Register what says that a tool is not there, so that the model can tell."""
        assert self._registry is not None  # noqa: S101  it was opened
        self._stood_in.add(name)
        if self._listing(server.name) is not None:
            _log.error("an MCP server does not offer a tool", server=server.name, tool=name)

        async def say(**_: Any) -> str:
            connection = self._connections.get(server.name)
            why = None if connection is None else connection.problem
            why = why or f"the MCP server {server.name!r} does not offer it"
            message = f"{why}: the call was not made"
            raise McpNotMade(message)

        self._registry.replace(
            StructuredTool(
                name=name,
                description=f"Unavailable now: the MCP server {server.name!r} does not offer it.",
                args_schema={"type": "object", "properties": {}},
                coroutine=say,
            ),
            # What may take its place until the run calls it may have effects.
            _rules(server, server.effect_of(name, read_only=False, idempotent=False)),
            is_absent=True,
        )

    async def _call(
        self,
        name: str,
        offered: Offered,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any] | None,
    ) -> types.CallToolResult:
        given = {offered.arguments.get(key, key): value for key, value in arguments.items()}
        connection = self._connections[name]
        call = partial(connection.call, offered.tool, offered.digest, given, meta)
        return await self._on_loop(call)

    async def _on_loop(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have the servers' loop do something; what cancels this cancels it there."""
        loop = self._loop
        # Not whether it runs: its thread may not have come to it yet.
        if loop is None or loop.is_closed():
            message = "the worker ends: the call was not made"
            raise McpNotMade(message)
        return await asyncio.wrap_future(_handed_over(loop, make()))


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_cut_off())
    finally:
        loop.close()


async def _cut_off() -> None:
    """Have what did not end in time end what it began, as programs that it started."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        if not task.cancelling():  # else it is at it
            task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CUT_OFF_WITHIN_S)


def _handed_over(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> Future[T]:
    # Not in the run's context: the run may be over when the server still hears of it.
    return contextvars.Context().run(asyncio.run_coroutine_threadsafe, work, loop)


def _rules(server: McpServer, effect: Effect) -> ToolRules:
    return ToolRules(
        effect,
        timeout_s=server.timeout_s + server.connect_timeout_s + _BEHIND_S,
        result_bytes_max=server.result_bytes_max,
    )


def _tool(
    server: McpServer, offered: Offered, call: Callable[..., Awaitable[Any]]
) -> StructuredTool:
    from millstream.agents.mcp.adapted import adapted  # noqa: PLC0415  heavy to import

    return adapted(server, offered, call)
