"""The launcher's own authority and the certificates that it gives brokers."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from pathlib import Path

import pytest

from millstream.infra.secure.certificates import LIFETIME, Authority, expires_at, is_due, now

HOSTS = ("127.0.0.1", "localhost")


async def _greeted(folder: Path, store: str, host: str) -> None:
    """Connect by TLS to a server that has the key store, as `host`. Raises `ssl.SSLError`."""
    (folder / "server.pem").write_text(store)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "server.pem")
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=serving
    )
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting, server_hostname=host
        )
        await reader.read()
        writer.close()
        await writer.wait_closed()
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("host", HOSTS)
async def test_a_client_that_trusts_the_authority_is_greeted_at_each_host(
    tmp_path: Path, host: str
) -> None:
    store = Authority.of(tmp_path, now()).issue("kafka-1", HOSTS, now())
    await _greeted(tmp_path, store, host)


async def test_another_host_is_refused(tmp_path: Path) -> None:
    store = Authority.of(tmp_path, now()).issue("kafka-1", ["elsewhere.example"], now())
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        await _greeted(tmp_path, store, "127.0.0.1")


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority.of(tmp_path, now())
    store = authority.issue("kafka-1", HOSTS, now() - dt.timedelta(days=2), dt.timedelta(days=1))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        await _greeted(tmp_path, store, "127.0.0.1")


async def test_a_certificate_of_another_authority_is_refused_and_told(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    store = Authority.of(theirs, now()).issue("kafka-1", HOSTS, now())
    assert Authority.of(theirs, now()).signed(store)
    assert not Authority.of(mine, now()).signed(store)
    with pytest.raises(ssl.SSLCertVerificationError):
        await _greeted(mine, store, "127.0.0.1")


def test_the_authority_stays_over_restarts(tmp_path: Path) -> None:
    store = Authority.of(tmp_path, now()).issue("kafka-1", HOSTS, now())
    assert Authority.of(tmp_path, now()).signed(store)


def test_a_certificate_is_due_once_a_third_of_its_life_is_left(tmp_path: Path) -> None:
    began = now()
    store = Authority.of(tmp_path, began).issue("kafka-1", HOSTS, began)
    assert abs(expires_at(store) - began - LIFETIME) < dt.timedelta(seconds=2)
    assert not is_due(store, began + LIFETIME * 0.65)
    assert is_due(store, began + LIFETIME * 0.68)


def test_the_key_is_nobody_elses_to_read(tmp_path: Path) -> None:
    Authority.of(tmp_path, now())
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o777 == 0o600
