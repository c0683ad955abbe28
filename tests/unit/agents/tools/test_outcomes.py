"""What clients of the network raise, against servers that behave badly, and what that says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from openai import OpenAIError

from millstream.agents.tools import CallNotMade, OutcomeUnknown
from millstream.agents.tools.outcomes import Outcome, outcome_of
from millstream.schemas.errors import ModelFailed

WAIT_S = 0.2


class Server:
    """A server of loopback that takes a request and answers with these bytes; `None`: never."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._held: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                if self._answer is None:
                    self._held.append(connection)
                    continue
                with connection:
                    connection.recv(65_536)
                    connection.sendall(self._answer)

    def close(self) -> None:
        """Listen no more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for one in self._held:
            one.close()
        self._thread.join(5)


def status(code: int) -> bytes:
    return f"HTTP/1.1 {code} Said\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()


SERVERS: dict[str, tuple[bytes | None, Outcome]] = {
    "never answers": (None, "unknown"),
    "breaks off": (b"", "unknown"),
    "answers half": (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", "unknown"),
    "internal error": (status(500), "unknown"),
    "gateway's time is up": (status(504), "unknown"),
    "its time is up": (status(408), "unknown"),
    "refuses": (status(403), "answered"),
    "too many": (status(429), "answered"),
}


def by_httpx(url: str) -> None:
    httpx.post(url, json={}, timeout=WAIT_S).raise_for_status()


def by_requests(url: str) -> None:
    requests.post(url, json={}, timeout=WAIT_S).raise_for_status()


def by_urllib(url: str) -> None:
    try:
        with urllib.request.urlopen(url, data=b"{}", timeout=WAIT_S) as answer:  # noqa: S310  ours
            answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise


def by_aiohttp(url: str) -> None:
    async def post() -> None:
        timeout = aiohttp.ClientTimeout(total=WAIT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, json={}) as answer,
        ):
            answer.raise_for_status()
            await answer.read()

    asyncio.run(post())


CLIENTS = [by_httpx, by_requests, by_urllib, by_aiohttp]


def raised(client: Callable[[str], None], url: str) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  which one, is the client's affair
        client(url)
    return caught.value


@pytest.fixture(params=SERVERS)
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, Outcome]]:
    answer, outcome = SERVERS[request.param]
    server = Server(answer)
    yield server.url, outcome
    server.close()


@pytest.mark.parametrize("client", CLIENTS)
def test_what_a_client_raises_tells_whether_a_call_may_have_been_made(
    client: Callable[[str], None], served: tuple[str, Outcome]
) -> None:
    # langchain-ai/langchain#40688: `httpx.ReadTimeout` says nothing of what was asked for.
    url, outcome = served
    assert outcome_of(raised(client, url)) == outcome


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://nowhere.invalid/"])
def test_a_server_that_is_not_reached_was_not_asked(
    client: Callable[[str], None], url: str
) -> None:
    # mollie/mollie-api-python#325: this may be tried again, and a time-out may not.
    assert outcome_of(raised(client, url)) == "not_made"


def like(package: str, name: str, *bases: type, **fields: Any) -> Exception:
    """Give an error of a package that is not installed."""
    kind = type(name, bases or (Exception,), {"__module__": f"{package}.inner", **fields})
    error: Exception = kind("said")
    return error


def of_grpc(code: str) -> Exception:
    named = type("Code", (), {"name": code})()
    base = type("RpcError", (Exception,), {"__module__": "grpc"})
    return like("grpc", "AioRpcError", base, code=lambda _: named)


def of_botocore(code: int) -> Exception:
    response = {"ResponseMetadata": {"HTTPStatusCode": code}}
    return like("botocore", "ClientError", response=response)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (of_grpc("DEADLINE_EXCEEDED"), "unknown"),
        (of_grpc("UNAVAILABLE"), "unknown"),
        (of_grpc("INVALID_ARGUMENT"), "answered"),
        (of_botocore(500), "unknown"),
        (of_botocore(400), "answered"),
        (like("botocore", "EndpointConnectionError"), "not_made"),
        (TimeoutError(), "unknown"),
        (ConnectionResetError(), "unknown"),
        (BrokenPipeError(), "unknown"),
        (ConnectionRefusedError(), "not_made"),
        (asyncio.IncompleteReadError(b"", 4), "unknown"),
        (FileNotFoundError("x"), "answered"),
        (ValueError("the order is closed"), "answered"),
        (OutcomeUnknown("lost the line"), "unknown"),
        (CallNotMade("closed on Sundays"), "not_made"),
        (ExceptionGroup("two", [ValueError("no"), TimeoutError()]), "unknown"),
    ],
)
def test_an_error_says_by_its_type_what_became_of_the_call(
    error: Exception, outcome: Outcome
) -> None:
    assert outcome_of(error) == outcome


def test_a_program_that_did_not_end_in_time_may_have_done_it() -> None:
    hangs = [sys.executable, "-c", "import signal; signal.pause()"]
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(hangs, timeout=0.05, check=True)
    assert outcome_of(caught.value) == "unknown"


def wrapped(inner: Exception, *, chained: str) -> Exception:
    """Give an error of a tool's own that stands for another."""
    try:
        try:
            raise inner
        except type(inner) as error:
            message = "the payment failed"
            if chained == "from":
                raise RuntimeError(message) from error
            if chained == "from none":
                raise RuntimeError(message) from None
            raise RuntimeError(message)  # noqa: B904  as many do
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("chained", "outcome"), [("from", "unknown"), ("beside", "unknown"), ("from none", "answered")]
)
def test_an_error_stands_for_what_it_was_raised_from_unless_it_says_from_none(
    chained: str, outcome: Outcome
) -> None:
    assert outcome_of(wrapped(httpx.ReadTimeout("slow"), chained=chained)) == outcome


@pytest.mark.parametrize(
    "of_a_model", [ModelFailed("overloaded"), like("openai", "APITimeoutError", OpenAIError)]
)
def test_a_model_that_a_tool_asked_in_vain_leaves_nothing_in_doubt(of_a_model: Exception) -> None:
    of_a_model.__cause__ = httpx.ReadTimeout("slow")
    assert outcome_of(of_a_model) == "answered"
    assert outcome_of(wrapped(of_a_model, chained="from")) == "answered"


def test_a_second_call_that_was_not_made_does_not_hide_a_first_that_may_have_been() -> None:
    def falls_back() -> None:
        try:
            raise httpx.ReadTimeout("the first place is slow")  # noqa: EM101, TRY301
        except httpx.ReadTimeout:
            by_httpx("http://127.0.0.1:1/")

    with pytest.raises(httpx.ConnectError) as caught:
        falls_back()
    assert outcome_of(caught.value) == "unknown"


def test_errors_that_come_from_each_other_are_read_once() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert outcome_of(one) == "answered"
