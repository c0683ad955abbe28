"""Connections to models' servers: kept, opened anew where one was closed, proxied, verified."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from millstream.agents.models.errors import as_foreseen
from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.openai.connections import (
    REFUSAL_BYTES_MAX,
    ServerRefused,
    proxy_of_environment,
)
from millstream.agents.models.openai.server_events import EVENT_BYTES_MAX
from millstream.agents.models.resolve import resolve_model
from millstream.schemas.errors import ModelFailed
from millstream.schemas.runs.errors import ModelUnavailable

ANSWER = {"choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}]}

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """Give a request's first line and headers; its body is read and left."""
    line = (await reader.readline()).decode().strip()
    headers = {}
    while (each := (await reader.readline()).decode().strip()) != "":
        name, _, value = each.partition(":")
        headers[name.lower()] = value.strip()
    await reader.readexactly(int(headers.get("content-length", 0)))
    return line, headers


def response(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve connections on loopback; gives the port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture
async def http() -> AsyncIterator[ProviderHttp]:
    http = ProviderHttp()
    yield http
    await http.close()


def model_at(url: str, http: ProviderHttp, **params: Any) -> Any:
    return resolve_model("openai:m", http=http, base_url=url, api_key="key", **params)


async def test_a_connection_is_kept_and_one_that_its_server_closed_is_opened_anew(
    http: ProviderHttp,
) -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        for _ in range(2):  # without a word that it is the last
            await read_request(reader)
            writer.write(response(json.dumps(ANSWER).encode()))
        if opened == 1:
            # It takes the third one in, and closes as if it had been idle.
            await reader.readline()

    async with listening(serve) as port:
        model = model_at(f"http://127.0.0.1:{port}/v1", http)
        for _ in range(4):
            assert (await model.ainvoke("hi")).text == "hello"
    assert opened == 2


async def test_a_server_that_closes_a_new_connection_has_broken_it(http: ProviderHttp) -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await read_request(reader)

    async with listening(serve) as port:
        with pytest.raises(aiohttp.ServerDisconnectedError) as raised:
            await model_at(f"http://127.0.0.1:{port}/v1", http).ainvoke("hi")
    assert opened == 1
    meant = as_foreseen(raised.value)
    assert isinstance(meant, ModelFailed)
    assert meant.may_cost
    assert "broke" in str(meant)


async def test_a_server_that_is_not_there_was_never_asked(http: ProviderHttp) -> None:
    async with listening(read_request) as port:  # type: ignore[arg-type]
        pass
    with pytest.raises(aiohttp.ClientConnectorError) as raised:
        await model_at(f"http://127.0.0.1:{port}/v1", http).ainvoke("hi")
    meant = as_foreseen(raised.value)
    assert isinstance(meant, ModelFailed)
    assert not meant.may_cost
    assert "could not be reached" in str(meant)


async def test_a_refusal_without_end_is_not_held(http: ProviderHttp) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 500 Oh\r\ncontent-type: text/html\r\n\r\n")
        while True:
            writer.write(b"<p>" * 10_000)
            await writer.drain()

    async with listening(serve) as port:
        with pytest.raises(ServerRefused) as raised:
            await model_at(f"http://127.0.0.1:{port}/v1", http).ainvoke("hi")
    assert len(str(raised.value.body)) == REFUSAL_BYTES_MAX
    assert raised.value.status_code == 500


async def test_an_answer_without_end_is_not_held(http: ProviderHttp) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{")
        while True:
            writer.write(b" " * (1 << 20))
            sent += 1
            await writer.drain()

    async with listening(serve) as port:
        with pytest.raises(ModelFailed, match="answer of more than"):
            await model_at(f"http://127.0.0.1:{port}/v1", http).ainvoke("hi")
    assert sent < 2 * EVENT_BYTES_MAX >> 20


async def test_the_proxy_of_the_environment_is_asked(
    http: ProviderHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, str]]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await read_request(reader))
        writer.write(response(json.dumps(ANSWER).encode()))

    async with listening(serve) as port:
        monkeypatch.setenv("http_proxy", f"http://ada:secret@127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "inside.example")
        assert (await model_at("http://model.example/v1", http).ainvoke("hi")).text == "hello"
    (line, headers) = asked[0]
    assert line == "POST http://model.example/v1/chat/completions HTTP/1.1"
    assert headers["proxy-authorization"].startswith("Basic ")
    assert proxy_of_environment("http://inside.example/v1") is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_call_is_never_sent_on_without_its_body_or_to_another_server(
    status: int, http: ProviderHttp
) -> None:
    # oai2ollama's pull request 11, litellm's 11946; pgadmin4's issue 10420.
    asked: list[str] = []
    elsewhere = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, headers = await read_request(reader)
        asked.append(line)
        if "/v2/" in line:
            writer.write(response(json.dumps(ANSWER).encode()))
            return
        host = headers["host"].replace("127.0.0.1", "localhost" if elsewhere else "127.0.0.1")
        to = f"location: http://{host}/v2/chat/completions\r\nconnection: close\r\n"
        writer.write(response(b"", f"{status} Elsewhere", to))

    async with listening(serve) as port:
        model = model_at(f"http://127.0.0.1:{port}/v1", http)
        if status in {307, 308}:
            assert (await model.ainvoke("hi")).text == "hello"
            assert [line.split()[0] for line in asked] == ["POST", "POST"]
        else:
            with pytest.raises(ModelUnavailable, match=rf"127.0.0.1:{port}/v2/chat/completions"):
                await model.ainvoke("hi")
        elsewhere = True
        asked.clear()
        with pytest.raises(ModelUnavailable, match=rf"localhost:{port}/v2/chat/completions"):
            await model.ainvoke("hi")
        assert len(asked) == 1


async def test_an_answer_may_have_long_headers_and_many(http: ProviderHttp) -> None:
    # aiohttp's issue 2304, RSS-to-Telegram-Bot's issue 705.
    more = f"x-policy: {'a' * 20_000}\r\n" + "set-cookie: a=b\r\n" * 300

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(response(json.dumps(ANSWER).encode(), more=more))

    async with listening(serve) as port:
        model = model_at(f"http://127.0.0.1:{port}/v1", http)
        assert (await model.ainvoke("hi")).text == "hello"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 OK\r\n\r\n", b"no http\r\n\r\n"])
async def test_an_answer_that_is_no_http_is_a_broken_one_and_no_refusal(
    answer: bytes, http: ProviderHttp
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    async with listening(serve) as port:
        with pytest.raises(aiohttp.ClientResponseError) as raised:
            await model_at(f"http://127.0.0.1:{port}/v1", http).ainvoke("hi")
    meant = as_foreseen(raised.value)
    assert isinstance(meant, ModelFailed)
    assert meant.may_cost


@pytest.mark.parametrize(
    "base", ["/v1?api-version=1", "/v1/?api-version=1", "/v1/chat/completions?api-version=1"]
)
async def test_an_address_may_hold_a_query_and_the_path_of_the_call(
    base: str, http: ProviderHttp
) -> None:
    # RD-Agent's issue 1296.
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await read_request(reader))[0])
        writer.write(response(json.dumps(ANSWER).encode()))

    async with listening(serve) as port:
        await model_at(f"http://127.0.0.1:{port}{base}", http).ainvoke("hi")
    assert asked == ["POST /v1/chat/completions?api-version=1 HTTP/1.1"]


def test_a_proxy_that_does_not_speak_http_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://ada:secret@127.0.0.1:1080")
    with pytest.raises(ModelUnavailable, match="socks5") as raised:
        proxy_of_environment("https://model.example/v1")
    assert "secret" not in str(raised.value)


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1 that signs itself; gives its file and its key's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "model")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


async def test_a_certificate_is_that_of_the_environment_or_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate, key = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(response(json.dumps(ANSWER).encode()))

    async with listening(serve, context) as port:
        url = f"https://127.0.0.1:{port}/v1"
        unknown = ProviderHttp()
        with pytest.raises(aiohttp.ClientConnectorCertificateError) as raised:
            await model_at(url, unknown).ainvoke("hi")
        assert "could not be reached" in str(as_foreseen(raised.value))
        await unknown.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        known = ProviderHttp()
        assert (await model_at(url, known).ainvoke("hi")).text == "hello"
        await known.close()
