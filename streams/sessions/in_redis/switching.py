"""A view that was made beside another one, put in its place: user by user, each in one step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

from millstream.schemas.errors import ServiceUnavailable
from millstream.streams.sessions.in_redis.connecting import Client, RedisConnections
from millstream.streams.sessions.in_redis.keys import kind_of, pattern_of, user_of
from millstream.streams.sessions.in_redis.scanning import scanned
from millstream.streams.sessions.in_redis.scripts import HOLD, LET_GO, SWITCH

__all__ = ["alone", "clear", "renew", "switch"]

HOLD_S: Final = 120


@asynccontextmanager
async def alone(connections: RedisConnections, prefix: str) -> AsyncIterator[str]:
    """Be the only one that makes a view anew; give what `renew` is to be told.

    Raises `ServiceUnavailable` where another one is at it.
    """
    key, token = _hold(prefix), uuid4().hex
    if not await connections.run(HOLD, [key], [token, HOLD_S]):
        message = (
            "the view is being made anew already; wait until that has ended, or, if it was killed, "
            f"for {HOLD_S} s"
        )
        raise ServiceUnavailable(message)
    try:
        yield token
    finally:
        await connections.run(LET_GO, [key], [token])


async def renew(connections: RedisConnections, prefix: str, token: str) -> None:
    """Stay the only one. Raises `ServiceUnavailable` where another one took over meanwhile."""
    if not await connections.run(HOLD, [_hold(prefix)], [token, HOLD_S]):
        message = "another one makes the view anew since; this one changed nothing"
        raise ServiceUnavailable(message)


async def clear(connections: RedisConnections, prefix: str) -> None:
    """Delete all keys of a view."""
    async for keys in scanned(connections, pattern_of(prefix)):
        by_user: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            by_user[user_of(key) or key].append(key)
        for of_user in by_user.values():

            async def call(client: Client, of_user: list[str] = of_user) -> int:
                return int(await client.unlink(*of_user))

            await connections.ask(call)


async def switch(connections: RedisConnections, made: str, live: str) -> int:
    """Put what stands under the prefix `made` in the place of `live`; give how many users have any.

    What `live` has beside that goes, but for keys of another type than the view's. What each user
    has is replaced in one step, so that no reader sees parts of both.
    """
    new = await _by_user(connections, made)
    old = await _by_user(connections, live)
    for user in new.keys() | old.keys():
        rests = new.get(user, set())
        base, target = f"{made}:{user}", f"{live}:{user}"
        keys = [f"{base}{rest}" for rest in sorted(rests)]
        gone = [f"{target}{rest}" for rest in sorted(old.get(user, set()) - rests)]
        kinds = [kind_of(key) or "none" for key in (*keys, *gone)]
        await connections.run(SWITCH, [*keys, *gone], [len(keys), made, live, *kinds])
    return len(new)


def _hold(prefix: str) -> str:
    return f"{prefix}:made-anew-by"


async def _by_user(connections: RedisConnections, prefix: str) -> dict[str, set[str]]:
    """Give each user's keys, by what all of them begin with, behind the prefix."""
    found: dict[str, set[str]] = defaultdict(set)
    async for keys in scanned(connections, pattern_of(prefix)):
        for key in keys:
            base = user_of(key)
            if base is not None and kind_of(key) is not None:
                found[base[len(prefix) + 1 :]].add(key[len(base) :])
    return found
