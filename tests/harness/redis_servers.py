"""Redis servers of a test's own: a cluster of two nodes; a master, its replica and a sentinel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from millstream.infra.redis import RedisServer, find_redis_server
from tests.services.probes import free_port
from tests.support import eventually

__all__ = ["OddRedis", "RedisWatch", "redis_cluster", "redis_server", "redis_watch"]

_SLOTS = 16_384
_CLUSTER_PORT_MAX = 55_535


class OddRedis(RedisServer):
    """A Redis of a test's own, with options of its own."""

    more: tuple[str, ...] = ()

    def _options(self) -> tuple[str, ...]:
        return (*super()._options(), *self.more)


class _SentinelServer(OddRedis):
    """A Redis that watches others: its options stand in a file, which it writes to."""

    def _options(self) -> tuple[str, ...]:
        return ("sentinel.conf", "--sentinel")


@dataclass(frozen=True, slots=True)
class RedisWatch:
    """A master, its replica, and the port of the sentinel that watches them."""

    master: OddRedis
    replica: OddRedis
    port: int

    @property
    def url(self) -> str:
        """What names them."""
        return f"redis+sentinel://127.0.0.1:{self.port}/mymaster"

    async def kill_master(self) -> None:
        """Kill the master, and wait until the replica is the master."""
        await self.master.kill()
        await eventually(lambda: _role(self.replica.url, "master"), timeout_s=20)

    async def swap(self) -> None:
        """Have master and replica change places: connections to the old master stay open."""
        await eventually(lambda: _told_to_swap(f"redis://127.0.0.1:{self.port}"), timeout_s=20)
        await eventually(lambda: _role(self.replica.url, "master"), timeout_s=20)
        await eventually(lambda: _role(self.master.url, "slave"), timeout_s=20)


@asynccontextmanager
async def redis_server(
    folder: Path, *options: str, port: int | None = None
) -> AsyncIterator[OddRedis]:
    """Run a Redis with options."""
    server = OddRedis(folder, port or free_port(), find_redis_server())
    server.more = options
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def redis_cluster(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Run a cluster of two nodes, each with half of the slots; give their `host:port`."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(2):
            own = folder / f"node-{number}"
            server = redis_server(own, "--cluster-enabled", "yes", port=_cluster_port())
            nodes.append(await stack.enter_async_context(server))
        addresses = [node.url.removeprefix("redis://").removesuffix("/0") for node in nodes]
        for number, node in enumerate(nodes):
            first = number * _SLOTS // 2
            slots = range(first, first + _SLOTS // 2)
            await _tell(node.url, "CLUSTER", "ADDSLOTS", *map(str, slots))
            await _tell(node.url, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        host, port = addresses[1].split(":")
        await _tell(nodes[0].url, "CLUSTER", "MEET", host, port)
        for node in nodes:
            await eventually(_whole(node.url))
        yield addresses[0], addresses[1]


@asynccontextmanager
async def redis_watch(folder: Path) -> AsyncIterator[RedisWatch]:
    """Run a master, a replica and a sentinel."""
    async with AsyncExitStack() as stack:
        master = await stack.enter_async_context(redis_server(folder / "master"))
        port = master.url.rsplit(":", 1)[1].removesuffix("/0")
        replicates = ("--replicaof", "127.0.0.1", port, "--repl-diskless-sync-delay", "0")
        replica = await stack.enter_async_context(redis_server(folder / "replica", *replicates))
        sentinel = _SentinelServer(folder / "sentinel", free_port(), find_redis_server())
        own_port = int(sentinel.url.rsplit(":", 1)[1].removesuffix("/0"))
        sentinel.folder.mkdir(parents=True)
        (sentinel.folder / "sentinel.conf").write_text(
            f"bind 127.0.0.1\nport {own_port}\n"
            f"sentinel monitor mymaster 127.0.0.1 {port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 2000\n",
            "utf-8",
        )
        await eventually(lambda: _in_step(replica.url), timeout_s=20)
        await sentinel.start()
        stack.push_async_callback(sentinel.stop)
        url = f"redis://127.0.0.1:{own_port}"
        await eventually(lambda: _replicas(url), timeout_s=20)
        yield RedisWatch(master, replica, own_port)


def _cluster_port() -> int:
    """Give a free port; nodes of a cluster speak with each other at one that is 10,000 higher."""
    return next(port for port in iter(free_port, 0) if port <= _CLUSTER_PORT_MAX)


def _whole(url: str) -> Callable[[], Awaitable[bool]]:
    async def whole() -> bool:
        told = str(await _tell(url, "CLUSTER", "INFO"))
        return "cluster_state:ok" in told and "cluster_known_nodes:2" in told

    return whole


async def _told_to_swap(url: str) -> bool:
    try:
        await _tell(url, "SENTINEL", "FAILOVER", "mymaster")
    except ResponseError:
        return False  # it does not know yet how far the replica is
    return True


async def _role(url: str, role: str) -> bool:
    told = await _info(url)
    return told.get("role") == role


async def _in_step(url: str) -> bool:
    return (await _info(url)).get("master_link_status") == "up"


async def _replicas(url: str) -> bool:
    return "slaves=1" in str((await _info(url)).get("master0", "")) or (
        cast("dict[str, Any]", (await _info(url)).get("master0", {})).get("slaves") == 1
    )


async def _info(url: str) -> dict[str, Any]:
    async with redis.asyncio.Redis.from_url(url, decode_responses=True) as client:
        try:
            return cast("dict[str, Any]", await client.info())
        except (RedisError, OSError):
            return {}


async def _tell(url: str, *words: str) -> object:
    async with redis.asyncio.Redis.from_url(url, decode_responses=True) as client:
        return await client.execute_command(*words)
