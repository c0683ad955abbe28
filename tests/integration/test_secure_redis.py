"""Redis with users and TLS: what lets a client in, and what is said where it is not let in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio
from redis.asyncio.connection import SSLConnection

from millstream.schemas.errors import Misconfigured, ServiceUnavailable
from millstream.streams.sessions.in_redis.connecting import RedisConnections
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from tests.harness.redis_servers import redis_server, redis_watch
from tests.harness.tls_proxy import tls_proxy
from tests.making.certificates import Authority
from tests.support import eventually

PASSWORD, OTHER = "redis-pass", "other-pass"


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """A Redis that lets in `ada` alone."""
    async with redis_server(tmp_path / "server") as server:
        admin = redis.asyncio.Redis.from_url(server.url)
        await set_password(admin, PASSWORD)
        await admin.execute_command("ACL", "SETUSER", "default", "off")
        await admin.aclose()
        found = urlsplit(server.url).port
        assert found is not None
        yield found


async def set_password(admin: Any, password: str) -> None:
    await admin.execute_command(
        "ACL", "SETUSER", "ada", "on", "resetpass", f">{password}", "~*", "+@all"
    )


async def answers(settings: Settings) -> bool:
    store = RedisSessionStore(settings)
    try:
        await store.ping()
        await store.check_writes()
    finally:
        await store.close()
    return True


def settings_of(port: int, *, tls: bool = False, **given: Any) -> Settings:
    scheme = "rediss" if tls else "redis"
    return Settings(
        redis_url=f"{scheme}://127.0.0.1:{port}/0",
        namespace="t",
        **{f"redis_{name}": value for name, value in given.items()},
    )


async def test_a_user_is_let_in_by_its_password_from_a_file(port: int, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    assert await answers(settings_of(port, username="ada", password_file=file))


async def test_a_wrong_password_is_told_without_it(port: int) -> None:
    with pytest.raises(ServiceUnavailable) as told:
        await answers(settings_of(port, username="ada", password=OTHER))
    assert "check MILLSTREAM_REDIS_USERNAME and MILLSTREAM_REDIS_PASSWORD" in str(told.value)
    assert OTHER not in f"{told.value} {told.value.__cause__!r}"


async def test_a_file_of_no_secret_is_refused_as_it_is_read(port: int, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="MILLSTREAM_REDIS_PASSWORD_FILE: there is no file"):
        RedisSessionStore(settings_of(port, password_file=tmp_path / "none"))


async def test_a_changed_password_counts_from_the_next_connection_on(
    port: int, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    store = RedisSessionStore(settings_of(port, username="ada", password_file=file))
    admin = redis.asyncio.Redis(port=port, username="ada", password=PASSWORD)
    try:
        await store.ping()
        file.write_text(OTHER)
        await set_password(admin, OTHER)  # Redis closes the connections of who had the old one
        await eventually(lambda: _pings(store))
    finally:
        await admin.aclose()
        await store.close()


async def _pings(store: RedisSessionStore) -> bool:
    try:
        await store.ping()
    except ServiceUnavailable:
        return False
    return True


async def test_tls_with_a_client_certificate_that_is_renewed(port: int, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    own = authority.sign("client", password=PASSWORD)
    async with tls_proxy(port, authority.sign("redis"), clients=authority) as secured:
        settings = settings_of(
            secured,
            tls=True,
            username="ada",
            password=PASSWORD,
            ssl_ca_certs=authority.path,
            ssl_certfile=own.certificate,
            ssl_keyfile=own.key,
            ssl_password=PASSWORD,
        )
        store = RedisSessionStore(settings)
        try:
            await store.ping()
            pool = store.connections._client.connection_pool
            kept = pool.make_connection()
            before = kept.ssl_context.get()
            assert kept.ssl_context.get() is before
            old_key = own.key.read_bytes()
            authority.sign("client", password=PASSWORD)
            new_key = own.key.read_bytes()
            own.key.write_bytes(old_key)  # its certificate is new, and its key is not yet
            assert kept.ssl_context.get() is before
            own.key.write_bytes(new_key)
            assert kept.ssl_context.get() is not before
            await pool.disconnect()
            await store.ping()
        finally:
            await store.close()


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("foreign", "name its authority in MILLSTREAM_REDIS_SSL_CA_CERTS"),
        ("misnamed", "its certificate is refused"),
        ("no certificate", "MILLSTREAM_REDIS_SSL_CERTFILE"),
        ("no TLS", "its port does not speak TLS"),
        ("TLS unasked for", "its port speaks TLS: write rediss"),
    ],
)
async def test_tls_that_fails_is_told_in_a_line(
    port: int, tmp_path: Path, case: str, words: str
) -> None:
    authority = Authority(tmp_path / "tls")
    signs = Authority(tmp_path / "other", "other") if case == "foreign" else authority
    hosts = ("redis.example",) if case == "misnamed" else ("127.0.0.1",)
    clients = authority if case == "no certificate" else None
    async with tls_proxy(port, signs.sign("redis", hosts=hosts), clients=clients) as secured:
        at = port if case == "no TLS" else secured
        tls = case != "TLS unasked for"
        settings = settings_of(
            at, tls=tls, username="ada", password=PASSWORD, ssl_ca_certs=authority.path
        )
        with pytest.raises(ServiceUnavailable) as told:
            await answers(settings)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.slow
async def test_a_sentinel_and_its_master_have_users_of_their_own(tmp_path: Path) -> None:
    async with redis_watch(tmp_path) as watch, AsyncExitStack() as stack:
        for at, word in ((watch.port, OTHER), (urlsplit(watch.master.url).port, PASSWORD)):
            admin = redis.asyncio.Redis(port=at or 0)
            stack.push_async_callback(admin.aclose)
            await set_password(admin, word)
        settings = Settings(
            redis_url=watch.url,
            namespace="t",
            redis_username="ada",
            redis_password=PASSWORD,
            redis_sentinel_username="ada",
            redis_sentinel_password=OTHER,
        )
        assert await answers(settings)


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
async def test_every_kind_of_redis_gets_user_and_certificates(tmp_path: Path, kind: str) -> None:
    authority = Authority(tmp_path)
    own = authority.sign("client")
    settings = Settings(
        redis_url=f"rediss+{kind}://127.0.0.1:1/service",
        redis_username="ada",
        redis_password=PASSWORD,
        redis_sentinel_password=OTHER,
        redis_ssl_ca_certs=authority.path,
        redis_ssl_certfile=own.certificate,
        redis_ssl_keyfile=own.key,
    )
    connections = RedisConnections(settings)
    client: Any = connections._client
    if kind == "cluster":
        made = [node.connection_class(**node.connection_kwargs) for node in _nodes(client)]
        users = {("ada", PASSWORD)}
    else:
        pools = [client.connection_pool, *(one.connection_pool for one in connections._sentinels)]
        made = [pool.make_connection() for pool in pools]
        users = {("ada", PASSWORD), (OTHER,)}
    assert {one.credential_provider.get_credentials() for one in made} == users
    for one in made:
        assert isinstance(one, SSLConnection)
        assert one.ssl_context.get().cert_store_stats()["x509_ca"] == 1
    await connections.close()


def _nodes(client: Any) -> list[Any]:
    return list(client.nodes_manager.startup_nodes.values())
