"""Going through every node of a cluster: all keys of a view, and which servers there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final, cast

from millstream.streams.sessions.in_redis.connecting import Client, RedisConnections

__all__ = ["run_ids", "scanned"]

_COUNT: Final = 1000

_Cursors = dict[str, int]
"""By node, where a scan goes on; 0: it is through."""


async def scanned(connections: RedisConnections, pattern: str) -> AsyncIterator[list[str]]:
    """Give the keys that match, some at a time; a key may come twice."""
    await connections.find_kind()
    cursors: _Cursors = {}
    while True:
        cursors, keys = await connections.ask(partial(_next, pattern=pattern, cursors=cursors))
        yield keys
        if not any(cursors.values()):
            return


async def _next(client: Client, *, pattern: str, cursors: _Cursors) -> tuple[_Cursors, list[str]]:
    cluster = cast("Any", client)
    if not hasattr(cluster, "get_primaries"):
        cursor, keys = await client.scan(cursors.get("", 0), pattern, count=_COUNT)
        return {"": int(cursor)}, cast("list[str]", keys)
    await cluster.initialize()
    found: list[str] = []
    on: _Cursors = {}
    for node in cluster.get_primaries():
        if cursors and not cursors.get(node.name):
            continue
        cursor, keys = await cluster.scan(
            cursors.get(node.name, 0), pattern, _COUNT, target_nodes=node
        )
        on[node.name] = int(cursor[node.name] if isinstance(cursor, dict) else cursor)
        found += keys
    return on, found


async def run_ids(client: Client) -> frozenset[str]:
    """Give the ids of the servers that hold the keys; each start of one gives it another."""
    cluster = cast("Any", client)
    if not hasattr(cluster, "get_primaries"):
        told: dict[str, Any] = await client.info("server")
        return frozenset([str(told.get("run_id"))])
    await cluster.initialize()
    ids = set()
    for node in cluster.get_primaries():
        told = await cluster.info("server", target_nodes=node)
        ids.add(str(told.get("run_id")))
    return frozenset(ids)
