"""One server's connection: opened, listed, used by any number of calls, and opened again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

import structlog
from mcp import types

from millstream.agents.mcp.credentials import Credentials
from millstream.agents.mcp.failures import McpFailed, McpNotMade, McpSessionGone, McpUnanswered
from millstream.agents.mcp.listing import Listing, listing_of
from millstream.agents.mcp.server import McpServer
from millstream.agents.mcp.session import Session, open_session
from millstream.schemas.errors import Misconfigured

__all__ = ["Connection"]

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
HEALTHY_S: Final = 60.0
LISTED_ONCE_IN_S: Final = 1.0
TRIED_ONCE_IN_S: Final = 1.0

_log = structlog.get_logger(__name__)


class Connection:
    """What calls of a server's tools go through. All of it belongs to one event loop.

    `run` opens the connection and holds it, in one task: whoever enters a session's scopes has to
    leave them (langchain-mcp-adapters#99). `on_listed` is called with each list of tools.

    Attributes:
        listing: The newest list; `None` before the first.
        problem: Why the server cannot be used; `None` while it can.
    """

    def __init__(
        self,
        server: McpServer,
        environment: Mapping[str, str],
        *,
        on_listed: Callable[[Listing], None],
    ) -> None:
        self.server = server
        self.listing: Listing | None = None
        self.problem: str | None = f"the MCP server {server.name!r} is not connected yet"
        self._credentials = Credentials(server)
        self._environment = environment
        self._on_listed = on_listed
        self._session: Session | None = None
        self._listed_at_s = -inf
        self._failed_at_s = -inf
        self._opening = True
        self._restarting = False
        self._was_tried = False
        self._began_with: Mapping[str, str] = {}
        self._calls = 0
        self._turned = asyncio.Event()
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._listing_lock = asyncio.Lock()

    async def run(self) -> None:
        """Keep the connection, for ever: one that ends is opened again, ever more patiently."""
        failures = 0
        while True:
            began_s = _now_s()
            self._wanted.clear()
            self._opening = True
            why = f"the MCP server {self.server.name!r} broke off"
            try:
                await self._hold()
            except (McpFailed, Misconfigured) as error:
                why = str(error)
            # The SDK's tasks raise whatever a server makes them raise, in groups.
            except Exception as error:  # noqa: BLE001
                why = self._words_of(error)
            # An error on the way out takes the place of the cancellation that it was met in.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError
            if self._restarting:
                self._restarting = False
                continue
            self._down(why)
            failures = 1 if _now_s() - began_s > HEALTHY_S else failures + 1
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 16))
            await _set_within(self._wanted, wait_s * random.uniform(0.8, 1.2))  # noqa: S311

    def _words_of(self, error: Exception) -> str:
        name = self.server.name
        if (ours := _ours(error)) is not None:
            return str(ours)
        _log.warning("an MCP server's connection failed", server=name, exc_info=error)
        return f"the connection to the MCP server {name!r} failed"

    async def first_tried(self) -> None:
        """Wait until the server was listed, or could not be."""
        while not self._was_tried:
            await self._turned.wait()

    async def call(
        self,
        tool: str,
        digest: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any] | None,
    ) -> types.CallToolResult:
        """Call a tool as it was listed with this digest; raises `McpFailed`.

        A call that the server cannot have got is made once more, in another session.
        """
        self._calls += 1
        try:
            try:
                session = await self._checked(tool, digest)
                result = await session.call(tool, arguments, meta)
            except McpSessionGone:
                self._restart()
                session = await self._checked(tool, digest)
                result = await session.call(tool, arguments, meta)
        except Misconfigured as error:
            raise McpNotMade(str(error)) from None
        finally:
            self._calls -= 1
        return result

    async def _checked(self, tool: str, digest: str) -> Session:
        """Give a session in which the tool is what it was."""
        session = await self._usable()
        if _now_s() - self._listed_at_s > self.server.list_max_age_s:
            try:
                await self._list(session, older_than_s=self.server.list_max_age_s)
            except McpUnanswered as error:
                # It is the list that gave no answer.
                message = f"{error}: the call was not made"
                raise McpNotMade(message) from None
        name = self.server.name
        known = None if self.listing is None else self.listing.tools.get(tool)
        if known is None:
            message = f"the MCP server {name!r} offers no {tool!r} any more: it was not called"
            raise McpNotMade(message)
        if known.digest != digest:
            message = (
                f"the tool {tool!r} of the MCP server {name!r} changed since this agent was told "
                "of it, so it was not called: requests from now on get it as it is"
            )
            raise McpNotMade(message)
        return session

    async def _usable(self) -> Session:
        if self._session is not None and self.server.env_files:
            fresh = self._credentials.environment()
            if fresh != self._began_with and self._calls == 1:
                self._restart()
        ends_by_s = _now_s() + self.server.connect_timeout_s
        while (session := self._session) is None or session.ended.is_set():
            failed_just_now = _now_s() - self._failed_at_s < TRIED_ONCE_IN_S
            left_s = ends_by_s - _now_s()
            if left_s <= 0 or (failed_just_now and not self._opening):
                message = f"{self.problem}: the call was not made"
                raise McpNotMade(message)
            self._wanted.set()
            await _set_within(self._turned, left_s)
        return session

    async def _hold(self) -> None:
        server = self.server
        if server.url is None:
            self._began_with = dict(self._credentials.environment())
        async with open_session(
            server, self._credentials, self._environment, on_list_changed=self._list_changed
        ) as session:
            await self._list(session, older_than_s=0.0)
            self._session, self.problem = session, None
            self._opening = False
            self._has_turned()
            _log.info("an MCP server is connected", server=server.name)
            try:
                await self._follow(session)
            finally:
                self._session = None

    async def _follow(self, session: Session) -> None:
        """List the tools again when the server says so, until the session ends."""
        ended = asyncio.ensure_future(session.ended.wait())
        try:
            while not session.ended.is_set():
                changed = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait({ended, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if not session.ended.is_set() and self._changed.is_set():
                    self._changed.clear()
                    try:
                        await self._list(session, older_than_s=0.0)
                    except McpFailed as error:
                        self._listed_at_s = -inf
                        name = self.server.name
                        _log.info("an MCP server was not listed", server=name, why=str(error))
                    # A server that says so for ever does not keep us busy for ever.
                    await _set_within(session.ended, LISTED_ONCE_IN_S)
        finally:
            ended.cancel()

    async def _list_changed(self) -> None:
        # Not listed here: this is the task that would have to read the list.
        self._changed.set()

    async def _list(self, session: Session, *, older_than_s: float) -> None:
        asked_at_s = _now_s()
        async with self._listing_lock:
            if self._listed_at_s > asked_at_s - older_than_s:
                return
            began_s = _now_s()
            listing = listing_of(self.server, await session.list_all())
            self._listed_at_s = began_s
        if self.listing is None or listing != self.listing:
            for problem in listing.problems:
                _log.warning(
                    "an MCP server is not offered whole", server=self.server.name, why=problem
                )
            self.listing = listing
            self._on_listed(listing)

    def _restart(self) -> None:
        if self._session is not None:
            self._restarting = self._opening = True
            self._session.ended.set()
            self._session = None

    def _down(self, why: str) -> None:
        if self.problem != why:
            _log.error("an MCP server is unavailable", server=self.server.name, why=why)
        self.problem = why
        if self._opening:
            self._failed_at_s = _now_s()
        self._opening = False
        self._has_turned()

    def _has_turned(self) -> None:
        self._was_tried = True
        self._turned.set()
        self._turned = asyncio.Event()


def _ours(error: BaseException) -> Exception | None:
    if isinstance(error, McpFailed | Misconfigured):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((one for one in map(_ours, error.exceptions) if one is not None), None)
    return None


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def _set_within(event: asyncio.Event, wait_s: float) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await event.wait()
    except TimeoutError:
        pass
