"""Which Redis a URL names: one server, a cluster, or what a sentinel says is the master.

`redis://HOST:PORT/DATABASE` (a server, or any node of a cluster), `redis+cluster://HOST:PORT,…` and
`redis+sentinel://HOST:PORT,…/SERVICE/DATABASE`; `rediss` in place of `redis` is TLS. What redis-py
takes as options may stand behind a `?`.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from urllib.parse import SplitResult, unquote, urlsplit

import redis.asyncio
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import (
    MasterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from millstream.schemas.errors import ForeignKey, Misconfigured, ServiceUnavailable
from millstream.streams.broker.security.probing import look_at
from millstream.streams.sessions.in_redis.scripts import Script
from millstream.streams.sessions.in_redis.securing import (
    sentinel_options,
    tls_options,
    told_refusal,
    user_options,
)
from millstream.streams.settings import Settings

__all__ = ["Client", "RedisConnections", "told"]

AnswerT = TypeVar("AnswerT")

Client = redis.asyncio.Redis
"""What calls are made on; a cluster's client takes the same ones."""

_CONNECTIONS_MAX: Final = 16
_TIMEOUT_S: Final = 2.0
_CALL_MAX_S: Final = 10.0
"""The longest that a call may take with all that is tried again."""

_OPTIONS: Final[dict[str, Any]] = {
    "max_connections": _CONNECTIONS_MAX,
    "socket_timeout": _TIMEOUT_S,
    "socket_connect_timeout": _TIMEOUT_S,
    "decode_responses": True,
    # Bytes that are no text are read as what no text of ours is, and so as absent.
    "encoding_errors": "surrogateescape",
}

_FORMS: Final = (
    "MILLSTREAM_REDIS_URL is no Redis URL: write redis://HOST:PORT/DATABASE, "
    "redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE; "
    "rediss in place of redis for TLS"
)


_PING: Final = b"PING\r\n"
_AWAY: Final = (RedisError, RedisClusterException, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class _Address:
    """A URL, read: the kind of Redis, its servers, what is behind the slash, and options."""

    kind: str
    servers: tuple[tuple[str, int], ...]
    path: str
    options: dict[str, Any]
    is_tls: bool


class RedisConnections:
    """The connections to a Redis of whichever kind; `close` them.

    Raises `Misconfigured` for a URL that is none, and for secrets that are not there. `ask` raises
    `ServiceUnavailable` where Redis does not answer as it should within some seconds, and
    `ForeignKey` for a key of another type.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sentinels: Sequence[Client] = ()
        try:
            self._address = _read(settings.redis_url)
            self._client = self._opened()
        except (ValueError, TypeError):
            # Neither the URL nor the error is shown: both may hold the password.
            raise Misconfigured(_FORMS) from None
        # The pools of these two refuse instead of waiting.
        is_bounded = self._address.kind in {"cluster", "sentinel"}
        self._places = asyncio.Semaphore(_CONNECTIONS_MAX) if is_bounded else None
        self._becoming = asyncio.Lock()

    @property
    def is_cluster(self) -> bool:
        """Whether it is known to be a cluster."""
        return self._address.kind == "cluster"

    async def close(self) -> None:
        """Close every connection."""
        for client in (self._client, *self._sentinels):
            await client.aclose()

    async def ask(self, call: Callable[[Client], Awaitable[AnswerT]]) -> AnswerT:
        """Make a call, and a second time where a node says that it is one of a cluster."""
        try:
            return await self._asked(call)
        except MovedError:
            await self._become_cluster()
        except (AttributeError, TypeError) as error:
            if not _is_of_a_lost_connection(error):
                raise
        except _AWAY as error:
            raise told(error) from error
        try:
            return await self._asked(call)
        except _AWAY as error:
            raise told(error) from error

    async def ping(self) -> None:
        """Return once Redis answers. Raises `ServiceUnavailable`, which says what it can of why."""
        try:
            await self.ask(lambda client: cast("Awaitable[Any]", client.ping()))
        except ServiceUnavailable as error:
            if error.__cause__ is not None and told_refusal(error.__cause__) is not None:
                raise
            if (why := await self.told_of_port()) is None:
                raise
            raise ServiceUnavailable(f"Redis does not answer as it should: {why}") from error

    async def told_of_port(self) -> str | None:
        """Say what a server's port speaks, if that is why it does not answer."""
        address = self._address
        if not address.servers:
            return None
        spoken = await look_at(*address.servers[0], asked=_PING, is_answer=_answers_ping)
        if address.is_tls and spoken.is_plaintext:
            return "its port does not speak TLS: write redis for rediss in MILLSTREAM_REDIS_URL"
        if not address.is_tls and spoken.is_tls:
            return "its port speaks TLS: write rediss for redis in MILLSTREAM_REDIS_URL"
        if address.is_tls and spoken.is_tls:
            return (
                "it ends the connection behind the handshake of TLS: it wants a certificate of the "
                "client, or refuses that of MILLSTREAM_REDIS_SSL_CERTFILE"
            )
        return None

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> int:
        """Run a script, which a node that does not know it is told of."""

        async def call(client: Client) -> int:
            try:
                return int(await client.evalsha(script.digest, len(keys), *keys, *map(str, args)))
            except NoScriptError:
                return int(await client.eval(script.text, len(keys), *keys, *map(str, args)))

        return await self.ask(call)

    async def find_kind(self) -> None:
        """Find out whether the server is a node of a cluster, before all of its keys are asked."""
        if self._address.kind != "server":
            return
        try:
            info: dict[str, Any] = await self.ask(lambda client: client.info("cluster"))
            is_cluster = bool(info.get("cluster_enabled"))
        except ServiceUnavailable as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
            # INFO is one of the commands that are called dangerous; what says so, too, is not.
            is_cluster = "cluster" in await self._greeted()
        if is_cluster:
            await self._become_cluster()

    async def _greeted(self) -> Collection[str]:
        """Give what a server says of itself in its greeting; nothing where it may not be asked."""
        try:
            told = await self.ask(lambda client: cast("Any", client).execute_command("HELLO"))
        except ServiceUnavailable as error:
            if isinstance(error.__cause__, ResponseError):
                return ()
            raise
        said = told.values() if isinstance(told, dict) else told
        return {str(one) for one in said if isinstance(one, str)}

    async def _asked(self, call: Callable[[Client], Awaitable[AnswerT]]) -> AnswerT:
        try:
            async with asyncio.timeout(_CALL_MAX_S):
                if self._places is None:
                    return await call(self._client)
                async with self._places:
                    return await call(self._client)
        except RedisError as error:
            if self._address.kind == "server" and _is_replica(error):
                # It keeps its connections, and the name may stand for its successor by now.
                await self._client.connection_pool.disconnect(inuse_connections=False)
            raise

    async def _become_cluster(self) -> None:
        async with self._becoming:
            if self._address.kind == "cluster":
                return
            before, address = self._client, self._address
            self._address = _Address(
                "cluster", address.servers, "", address.options, address.is_tls
            )
            self._client = self._opened()
            self._places = asyncio.Semaphore(_CONNECTIONS_MAX)
            await before.aclose()

    def _opened(self) -> Client:
        address = self._address
        options = _OPTIONS | user_options(self._settings, address.options)
        if address.is_tls:
            options |= tls_options(self._settings)
        match address.kind:
            case "cluster":
                options.pop("db", None)  # a cluster has one database
                # A node that lacks a connection is taken for one that is gone; we wait before.
                options["max_connections"] = 4 * _CONNECTIONS_MAX
                nodes = [ClusterNode(host, port) for host, port in address.servers]
                cluster = RedisCluster(
                    startup_nodes=nodes,
                    ssl=address.is_tls,
                    # Else so many MOVED in a row have it close what others are waiting for.
                    reinitialize_steps=0,
                    **options,
                )
                return cast("Client", cluster)
            case "sentinel":
                master, self._sentinels = _of_sentinel(self._settings, address, options)
                return master
            case _:
                pool = redis.asyncio.BlockingConnectionPool(
                    timeout=_TIMEOUT_S, **(options | _place(address))
                )
                return redis.asyncio.Redis.from_pool(pool)


def _of_sentinel(
    settings: Settings, address: _Address, options: dict[str, Any]
) -> tuple[Client, Sequence[Client]]:
    """Give the client of a service's master, and those of its sentinels."""
    service, _, database = address.path.partition("/")
    own = sentinel_options(settings, options)
    tls = tls_options(settings) if address.is_tls else {}
    sentinel: Any = cast("Any", Sentinel)(
        address.servers,
        sentinel_kwargs={
            "socket_timeout": _TIMEOUT_S,
            "socket_connect_timeout": _TIMEOUT_S,
            "decode_responses": True,
            "ssl": address.is_tls,
            **tls,
            **own,
        },
    )
    db = int(database) if database else options.pop("db", 0)
    master = sentinel.master_for(unquote(service), ssl=address.is_tls, db=db, **options)
    return master, sentinel.sentinels


def _place(address: _Address) -> dict[str, Any]:
    if address.kind == "unix":
        return {}
    host, port = address.servers[0]
    return {"host": host, "port": port}


def _read(url: str) -> _Address:
    """Read a URL. Raises `ValueError` for one that is none."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if parts.scheme == "unix":
        return _Address("unix", (), "", dict(parse_url(url)), is_tls=False)
    if scheme not in {"redis", "rediss"} or kind not in {"", "cluster", "sentinel"}:
        raise ValueError(scheme)
    user, at, hosts = parts.netloc.rpartition("@")
    servers = []
    options: dict[str, Any] = {}
    for host in hosts.split(","):
        one = SplitResult(scheme, f"{user}{at}{host}", "", parts.query, "").geturl()
        options = dict(parse_url(one))
        port = 26379 if kind == "sentinel" else 6379
        servers.append((options.pop("host", "localhost"), options.pop("port", port)))
    path = parts.path.strip("/")
    if not kind:
        plain = dict(parse_url(url))
        options = plain
        options.pop("host", None)
        options.pop("port", None)
        if len(servers) > 1:
            raise ValueError(hosts)
    elif kind == "sentinel" and not path:
        raise ValueError(path)
    else:
        options.pop("connection_class", None)
    return _Address(kind or "server", tuple(servers), path, options, is_tls=scheme == "rediss")


def _is_of_a_lost_connection(error: AttributeError | TypeError) -> bool:
    """Tell whether it is how asyncio's streams fail where a connection ends as it is written to.

    redis-py hands that on as it is (redis/redis-py#4287): the next call gets another connection.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = str(frame.f_globals.get("__name__"))
    return module.startswith(("asyncio.", "redis.asyncio.connection"))


def _answers_ping(answer: bytes) -> bool:
    """Tell an answer of Redis' by its first bytes: that it is there, or that a user is wanted."""
    return answer[:1] in {b"+", b"-"}


def _is_replica(error: RedisError) -> bool:
    """Tell whether a server that was a primary answers that it is a replica now."""
    # Some versions wrap what a script met into an error of the script.
    return isinstance(error, ReadOnlyError | MasterDownError) or "-READONLY" in str(error)


def told(error: Exception) -> ForeignKey | ServiceUnavailable:
    """Give what an error of Redis means."""
    if "WRONGTYPE" in str(error):
        return ForeignKey(str(error))
    why = told_refusal(error) or str(error) or type(error).__name__
    return ServiceUnavailable(f"Redis does not answer as it should: {why}")
