"""Connections to the servers of models, and what they answer that is no answer of a model."""

from __future__ import annotations

import asyncio
import ssl
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import certifi
import orjson

from millstream.schemas.runs.errors import ModelUnavailable

__all__ = ["Connections", "ServerRefused", "connections_here", "json_of", "proxy_of_environment"]

CONNECTIONS_MAX: Final = 1_000
CONNECT_TIMEOUT_S: Final = 30.0
SILENCE_MAX_S: Final = 600.0
"""As OpenAI's client has it; an attempt has a limit of its own."""
REFUSAL_BYTES_MAX: Final = 65_536
WORDS_MAX: Final = 4_096
HEADER_BYTES_MAX: Final = 65_536
"""Of one header of an answer: gateways send policies and cookies beyond aiohttp's 8 KiB."""
HEADERS_MAX: Final = 1_024

_ERROR_STATUS: Final = 400
# By which a call goes on as it is; by the others it becomes one without a body (RFC 9110, 15.4).
_CALLED_AGAIN: Final = frozenset({307, 308})
# Those that are kept, by their event loop.
_OF_LOOP: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Connections] = (
    weakref.WeakKeyDictionary()
)


@dataclass(frozen=True, slots=True)
class _Answered:
    headers: Mapping[str, str]


class ServerRefused(Exception):
    """A server answered with a status from 400 on.

    `body` is what it says of the error: of a JSON object its `error`, if it has one. `response`
    holds the answer's headers, in which it may say when to come back.
    """

    def __init__(self, status_code: int, body: object, headers: Mapping[str, str]) -> None:
        told = body.get("message") if isinstance(body, Mapping) else body
        super().__init__(str(told or body or "no word of why")[:WORDS_MAX])
        self.status_code = status_code
        self.body = body
        self.response = _Answered(headers)


class Connections:
    """Connections that are kept for the next call: up to 1,000, more calls wait.

    They belong to the event loop of their first call, and are to be closed there by who made them.
    `serves_loop`: until then they serve all calls of that loop which bring none of their own. The
    proxies and certificates that the environment names are obeyed.
    """

    def __init__(self, *, serves_loop: bool = False) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serves_loop = serves_loop
        self._proxies: dict[str, str | None] = {}

    @property
    def are_here(self) -> bool:
        """Whether they may be used by the running event loop."""
        return self._session is None or self._loop is asyncio.get_running_loop()

    def session(self) -> aiohttp.ClientSession:
        """Give the client that has them, for calls of the running event loop."""
        if self._session is None:
            self._session = _session()
            self._loop = asyncio.get_running_loop()
            if self._serves_loop:
                _OF_LOOP.setdefault(asyncio.get_running_loop(), self)
        return self._session

    async def close(self) -> None:
        """Close all of them; no model may be called any more."""
        if self._session is not None:
            loop = asyncio.get_running_loop()
            if _OF_LOOP.get(loop) is self:
                del _OF_LOOP[loop]
            await self._session.close()

    @asynccontextmanager
    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and give the answer to be read.

        Raises `ServerRefused`, `ModelUnavailable` for an answer that sends the call on to another
        server, who is not to have key and conversation, and what aiohttp raises where the
        connection breaks.
        """
        async with await self._answered(url, headers, body) as response:
            if response.status >= _ERROR_STATUS:
                raise await _refusal(response)
            yield response

    async def _answered(
        self, url: str, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        """Send a request, once more where its server had closed a connection that was kept.

        A server closes one that it takes to be idle while a request is on its way to it, and has
        read nothing of that (RFC 9112, section 9.3.1). Each one that is met so is kept no longer,
        until a new one is opened.
        """
        session, proxy = self.session(), self._proxy_for(url)
        while True:
            kept = SimpleNamespace(was_kept=False)
            try:
                return await session.post(
                    url, data=body, headers=headers, proxy=proxy, trace_request_ctx=kept
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not kept.was_kept:
                    raise

    def _proxy_for(self, url: str) -> str | None:
        # aiohttp asks the environment in a thread, for each request anew.
        if url not in self._proxies:
            self._proxies[url] = proxy_of_environment(url)
        return self._proxies[url]


@asynccontextmanager
async def connections_here() -> AsyncIterator[Connections]:
    """Give those that serve the running event loop, or some for one call where it has none."""
    known = _OF_LOOP.get(asyncio.get_running_loop())
    if known is not None:
        yield known
        return
    own = Connections()
    try:
        yield own
    finally:
        await own.close()


def proxy_of_environment(url: str) -> str | None:
    """Give the proxy by which the environment has a URL called (`HTTPS_PROXY`, `NO_PROXY`, …).

    Raises `ModelUnavailable` for one that does not speak HTTP.
    """
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    known = getproxies()
    proxy = known.get(parts.scheme) or known.get("all")
    if proxy is not None and urlsplit(proxy).scheme not in {"http", "https"}:
        message = f"the proxy of the environment, {urlsplit(proxy).scheme}://…, does not speak HTTP"
        raise ModelUnavailable(message)
    return proxy


def json_of(data: bytes) -> Any:
    """Read JSON, also of servers that write halves of characters or `NaN`; raises `ValueError`."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        import json  # noqa: PLC0415

        return json.loads(data.decode("utf-8-sig", errors="replace"))


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, ssl=_certificates()),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_MAX_S
        ),
        trace_configs=[_tracing()],
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
        max_headers=HEADERS_MAX,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _tracing() -> aiohttp.TraceConfig:
    async def note(_: Any, context: SimpleNamespace, __: Any) -> None:
        context.trace_request_ctx.was_kept = True

    async def sent_on(_: Any, __: Any, told: aiohttp.TraceRequestRedirectParams) -> None:
        response = told.response
        place = urlsplit(urljoin(str(told.url), response.headers.get("location", "")))
        is_same = (place.scheme, place.netloc) == (told.url.scheme, told.url.raw_authority)
        if response.status in _CALLED_AGAIN and is_same:
            return
        response.close()
        to = f"{place.scheme}://{place.netloc.rpartition('@')[2]}{place.path}"
        message = (
            f"the model's server sends calls on (status {response.status}) to {to}: its base URL "
            "has to be the one that it is served at"
        )
        raise ModelUnavailable(message)

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(note)
    tracing.on_request_redirect.append(sent_on)
    return tracing


def _certificates() -> ssl.SSLContext:
    # The system's, or those that SSL_CERT_FILE and SSL_CERT_DIR name; a slim image has none.
    known: Any = ssl.get_default_verify_paths()  # neither is there, whatever its type says
    return _context(known.cafile, known.capath)


@cache
def _context(file: str | None, folder: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=file, capath=folder)
    if file is None and folder is None:
        context.load_verify_locations(certifi.where())
    return context


async def _refusal(response: aiohttp.ClientResponse) -> ServerRefused:
    data = await _beginning(response)
    body: object
    try:
        body = json_of(data)
    except ValueError:
        body = data.decode(errors="replace")
    if isinstance(body, Mapping):
        body = body.get("error", body)
    return ServerRefused(response.status, body, response.headers)


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > REFUSAL_BYTES_MAX:
            break
    return bytes(data[:REFUSAL_BYTES_MAX])
