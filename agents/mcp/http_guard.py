"""What comes over HTTP from an MCP server, held to bounds, with each failure told to its own call.

The SDK's transport ends its whole session, and with it the calls of all others, where one request
cannot be sent or is answered with an error's status (python-sdk#2604), and waits for ever where an
answer breaks off (python-sdk#1577). So each request that is not answered as it should be gets a
JSON-RPC error from here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import structlog
from typing_extensions import override

from millstream.agents.mcp.credentials import Credentials
from millstream.schemas.errors import Misconfigured

__all__ = ["GONE", "NOT_SENT", "SENT", "GuardedHttp"]

# Outside of what JSON-RPC and MCP use. A server that says one of them deceives only itself.
NOT_SENT: Final = -31_990
SENT: Final = -31_991
GONE: Final = -31_992

_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_SESSION: Final = "mcp-session-id"
_KEEPS_METHOD: Final = frozenset({307, 308})

_log = structlog.get_logger(__name__)


class GuardedHttp(httpx.AsyncBaseTransport):
    """Sends requests with the server's credentials, to the server's own origin only.

    `answer_bytes_max` bounds each answer. `inner` is what sends.
    """

    def __init__(
        self,
        server: str,
        credentials: Credentials,
        *,
        answer_bytes_max: int,
        inner: httpx.AsyncBaseTransport,
    ) -> None:
        self._server = server
        self._credentials = credentials
        self._bytes_max = answer_bytes_max
        self._inner = inner

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; one that holds a call is always answered, if need be with an error."""
        body = await request.aread() if request.method == "POST" else b""
        message: dict[str, Any] = json.loads(body) if body else {}
        call_id = message.get("id") if "method" in message else None
        try:
            request.headers.update(self._credentials.headers())
            # Else a small body may be a large answer.
            request.headers["accept-encoding"] = "identity"
            response = await self._inner.handle_async_request(request)
        except Misconfigured as error:
            return self._failed(request, call_id, NOT_SENT, str(error))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return self._failed(request, call_id, NOT_SENT, f"cannot be reached: {_words(error)}")
        except httpx.HTTPError as error:
            return self._failed(request, call_id, SENT, f"broke off: {_words(error)}")
        if request.method != "POST":
            response.stream = _Bounded(response.stream, self._bytes_max)
            return response
        return await self._answer(request, response, call_id)

    @override
    async def aclose(self) -> None:
        """Close what sends."""
        await self._inner.aclose()

    async def _answer(
        self, request: httpx.Request, response: httpx.Response, call_id: Any
    ) -> httpx.Response:
        status = response.status_code
        if status in _KEEPS_METHOD and _stays(request, response):
            return response  # the SDK follows it, by way of here
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_ok = 200 <= status < 300  # noqa: PLR2004  as HTTP numbers what went well
        if "content-encoding" in response.headers:
            kind = "something compressed, unasked,"
        if call_id is None or not is_ok or kind not in {_JSON, _EVENTS}:
            await response.aclose()
        if call_id is None:
            return self._failed(request, None, SENT, "" if is_ok else f"answered HTTP {status}")
        if not is_ok:
            return self._refused(request, response, call_id)
        if kind == _EVENTS:
            ending = _event(
                _error(call_id, SENT, self._told("ended its answer before it was whole"))
            )
            response.stream = _Bounded(response.stream, self._bytes_max, ending)
            return response
        if kind != _JSON:
            words = f"answered with {kind or 'something'} instead of JSON"
            return self._failed(request, call_id, SENT, words)
        return await self._json(request, response, call_id)

    async def _json(  # noqa: PLR0911  one for each thing that may be wrong
        self, request: httpx.Request, response: httpx.Response, call_id: Any
    ) -> httpx.Response:
        whole = bytearray()
        try:
            async for piece in response.aiter_bytes():
                whole += piece
                if len(whole) > self._bytes_max:
                    words = f"answered with more than {self._bytes_max} bytes"
                    return self._failed(request, call_id, SENT, words)
            answer = json.loads(whole)
        except httpx.HTTPError as error:
            return self._failed(request, call_id, SENT, f"broke off: {_words(error)}")
        except (ValueError, RecursionError):
            return self._failed(request, call_id, SENT, "answered with what is no JSON")
        finally:
            await response.aclose()
        if not isinstance(answer, dict) or answer.get("jsonrpc") != "2.0":
            return self._failed(request, call_id, SENT, "answered with what is no JSON-RPC")
        if answer.get("id") not in {call_id, str(call_id)}:
            return self._failed(request, call_id, SENT, "answered another call than was made")
        if ("result" in answer) == ("error" in answer):
            return self._failed(request, call_id, SENT, "answered with what is no JSON-RPC")
        return _response(request, answer, response.headers.get(_SESSION))

    def _refused(
        self, request: httpx.Request, response: httpx.Response, call_id: Any
    ) -> httpx.Response:
        status = response.status_code
        if response.is_redirect:
            words = "sends requests on to another place, where its credentials do not go"
            return self._failed(request, call_id, NOT_SENT, f"{words}: put the right one in `url`")
        if status == httpx.codes.NOT_FOUND and _SESSION in request.headers:
            return self._failed(request, call_id, GONE, "knows the session no more")
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            words = f"refused the credentials (HTTP {status})"
            return self._failed(request, call_id, NOT_SENT, words)
        # A server says by 4xx that it did not do what was asked, but for a time that it ended.
        is_refusal = httpx.codes.is_client_error(status) and status != httpx.codes.REQUEST_TIMEOUT
        code = NOT_SENT if is_refusal else SENT
        return self._failed(request, call_id, code, f"answered HTTP {status}")

    def _failed(
        self, request: httpx.Request, call_id: Any, code: int, words: str
    ) -> httpx.Response:
        if request.method != "POST":
            return httpx.Response(httpx.codes.BAD_GATEWAY, request=request)
        if call_id is None:
            # The SDK would end the session over a notification that did not arrive.
            if words:
                _log.info("an MCP server took no notification", server=self._server, why=words)
            return httpx.Response(httpx.codes.ACCEPTED, request=request)
        return _response(request, _error(call_id, code, self._told(words)))

    def _told(self, words: str) -> str:
        return (
            words
            if words.startswith("the MCP server")
            else f"the MCP server {self._server!r} {words}"
        )


class _Bounded(httpx.AsyncByteStream):
    """A body of at most so many bytes, and behind it, however it ends, `ending`.

    An answer that came is read no further, so nobody reads the ending then. None is put behind a
    body whose events have ids: the SDK asks for the rest of it.
    """

    def __init__(self, inner: Any, bytes_max: int, ending: bytes = b"") -> None:
        self._inner = inner
        self._bytes_max = bytes_max
        self._ending = ending

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        count, before, resumes = 0, b"\n", False
        try:
            async for piece in self._inner:
                count += len(piece)
                if count > self._bytes_max:
                    resumes = False
                    break
                around = before + piece
                resumes = resumes or b"\nid:" in around
                before = around[-4:]
                yield piece
        except httpx.HTTPError as error:
            _log.info("an MCP server's events broke off", why=_words(error))
        if self._ending and not resumes:
            yield b"\n\n" + self._ending

    @override
    async def aclose(self) -> None:
        await self._inner.aclose()


def _stays(request: httpx.Request, response: httpx.Response) -> bool:
    to = request.url.join(response.headers.get("location", ""))
    here = request.url
    return (to.scheme, to.host, to.port) == (here.scheme, here.host, here.port)


def _error(call_id: Any, code: int, words: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call_id, "error": {"code": code, "message": words}}


def _event(message: dict[str, Any]) -> bytes:
    return b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n"


def _response(
    request: httpx.Request, message: dict[str, Any], session: str | None = None
) -> httpx.Response:
    headers = {"content-type": _JSON} | ({} if session is None else {_SESSION: session})
    return httpx.Response(200, headers=headers, content=json.dumps(message), request=request)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
