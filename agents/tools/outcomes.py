"""What an error that a tool raised says of its call: answered, not made, or nobody knows.

Whoever waits for an answer in vain knows nothing of what was asked for: it may have been done, and
only the answer was lost. Told as a failure, a model asks again, and it is done twice
(langchain-ai/langchain#40688, stripe/ai#402). Clients of the network are known by the names of
their errors, so that none of them has to be installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final, Literal

from millstream.schemas.errors import MillstreamError

__all__ = ["CallNotMade", "Outcome", "OutcomeUnknown", "outcome_of"]

Outcome = Literal["answered", "not_made", "unknown"]
"""`answered`: the error is what the call gave. `not_made`: nothing was asked for. `unknown`: what
was asked for may have been done."""


class OutcomeUnknown(MillstreamError):
    """A call was sent and gave no answer, so it may have done what it was called for.

    A tool raises it where it knows that it does not know; so does a `reconcile` that cannot tell.
    """

    code: ClassVar[str] = "outcome_unknown"


class CallNotMade(MillstreamError):
    """A call did nothing: nothing was asked for, or it is known that nothing was done."""

    code: ClassVar[str] = "call_not_made"


# A bound on what foreign code may chain.
_LINKS_MAX: Final = 50
_STATUS_SERVER: Final = range(500, 600)
_STATUS_TIMED_OUT: Final = 408

# By the package and the name of a class, its own or of one that it is made from.
_NOT_MADE: Final = frozenset(
    {
        "aiohttp.ClientConnectorError",
        "aiohttp.ConnectionTimeoutError",
        "botocore.ConnectTimeoutError",
        "botocore.EndpointConnectionError",
        "builtins.ConnectionRefusedError",
        "httpcore.ConnectError",
        "httpcore.ConnectTimeout",
        "httpcore.PoolTimeout",
        "httpcore.ProxyError",
        "httpcore.UnsupportedProtocol",
        "httpx.ConnectError",
        "httpx.ConnectTimeout",
        "httpx.PoolTimeout",
        "httpx.ProxyError",
        "httpx.UnsupportedProtocol",
        "requests.ConnectTimeout",
        "smtplib.SMTPConnectError",
        "socket.gaierror",
        "ssl.SSLCertVerificationError",
        "urllib3.ConnectTimeoutError",
    }
)
_UNKNOWN: Final = frozenset(
    {
        "aiohttp.ClientConnectionError",
        "aiohttp.ClientPayloadError",
        "anyio.BrokenResourceError",
        "anyio.EndOfStream",
        "asyncio.IncompleteReadError",
        "botocore.ConnectionClosedError",
        "botocore.ReadTimeoutError",
        "concurrent.BrokenExecutor",
        "http.BadStatusLine",
        "http.IncompleteRead",
        "httpcore.NetworkError",
        "httpcore.ProtocolError",
        "httpcore.TimeoutException",
        "httpx.DecodingError",
        "httpx.TransportError",
        "redis.TimeoutError",
        "requests.ChunkedEncodingError",
        "requests.ContentDecodingError",
        "requests.Timeout",
        "smtplib.SMTPServerDisconnected",
        "subprocess.TimeoutExpired",
        "urllib3.ProtocolError",
        "urllib3.ReadTimeoutError",
        "websockets.ConnectionClosed",
    }
)
# Also raised while connecting, by clients that say so in another error.
_UNKNOWN_ALONE: Final = frozenset({"builtins.ConnectionError", "builtins.TimeoutError"})
# They hold an answer, whose status says what it is.
_STATUS: Final = frozenset(
    {
        "aiohttp.ClientResponseError",
        "botocore.ClientError",
        "httpx.HTTPStatusError",
        "requests.HTTPError",
        "urllib.HTTPError",
    }
)
# Of models that a tool asks: what became of the answer says nothing of what the tool does.
_OF_MODELS: Final = frozenset({"anthropic.AnthropicError", "openai.OpenAIError"})
_RPC: Final = frozenset({"grpc.RpcError"})
_RPC_UNKNOWN: Final = frozenset(
    {"ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNKNOWN"}
)


def outcome_of(error: BaseException) -> Outcome:
    """Say what an error of a tool means for its call, also by the errors that it comes from.

    An answer with a status of 5xx or 408 leaves the outcome open, as gateways and servers give
    them for what they have begun.
    """
    not_made = False
    todo: list[tuple[BaseException, bool]] = [(error, False)]
    seen: set[int] = set()
    while todo and len(seen) < _LINKS_MAX:
        link, is_below = todo.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        if _is_told(link):
            continue
        match _of_one(link, is_below=is_below):
            case "unknown":
                return "unknown"
            case "not_made":
                # What it comes from are the socket's words for the same; but a call that it was
                # raised beside may have been another.
                not_made = is_below = True
        todo += ((one, is_below) for one in _from(link))
    return "not_made" if not_made else "answered"


def _of_one(error: BaseException, *, is_below: bool) -> Outcome:
    if isinstance(error, OutcomeUnknown):
        return "unknown"
    if isinstance(error, CallNotMade):
        return "not_made"
    names = _names(error)
    outcome: Outcome = "answered"
    if names & _STATUS:
        status = _status_of(error)
        if status in _STATUS_SERVER or status == _STATUS_TIMED_OUT:
            outcome = "unknown"
    elif names & _RPC:
        code = getattr(error, "code", None)
        if callable(code) and getattr(code(), "name", None) in _RPC_UNKNOWN:
            outcome = "unknown"
    elif names & _NOT_MADE:
        outcome = "not_made"
    elif names & _UNKNOWN or (not is_below and names & _UNKNOWN_ALONE):
        outcome = "unknown"
    return outcome


def _is_told(error: BaseException) -> bool:
    """Tell whether an error says all that there is to say, whatever it comes from."""
    if isinstance(error, MillstreamError):
        return not isinstance(error, OutcomeUnknown | CallNotMade)
    return bool(_names(error) & _OF_MODELS)


def _names(error: BaseException) -> frozenset[str]:
    kinds = type(error).__mro__
    return frozenset(f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in kinds)


def _status_of(error: Any) -> int | None:
    for name in ("status", "code"):
        if isinstance(status := getattr(error, name, None), int):
            return status
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata") or {}
        status = response.get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _from(error: BaseException) -> Iterator[BaseException]:
    """Give the errors that one comes from, holds, or was raised beside."""
    if isinstance(error, BaseExceptionGroup):
        yield from error.exceptions
    before = error.__cause__
    if before is None and not error.__suppress_context__:
        before = error.__context__
    # The latter two as urllib and requests hand on what their sockets raised.
    for one in (before, getattr(error, "reason", None), *error.args[:1]):
        if isinstance(one, BaseException):
            yield one
