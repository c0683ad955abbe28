"""What the view in Redis says of itself: up to which offset it has each partition of its topics.

It stands beside what it tells of, so that it is lost along with that: whoever feeds the view sees
that it was emptied, or is an older copy of itself, and from which offset to make up for it. What
was put since the last mark is not told of: it counts as lost where a server is another one. A
server has one such key; a cluster has many, on slots that lie evenly apart, since one of its nodes
may lose what it has while others do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple, cast

from redis.crc import key_slot
from redis.exceptions import NoPermissionError

from millstream.schemas.errors import ServiceUnavailable
from millstream.streams.sessions.in_redis.connecting import RedisConnections
from millstream.streams.sessions.in_redis.scanning import run_ids
from millstream.streams.sessions.in_redis.scripts import CLAIM

__all__ = ["Stand", "ViewMarks", "told_of"]

MARKS_OF_A_CLUSTER: Final = 64
_SLOTS: Final = 16384
_DIGITS_MAX: Final = 19


class Stand(NamedTuple):
    """Up to where the view has a partition; `until` is the end of what it is made up for now."""

    offset: int
    until: int | None = None

    @classmethod
    def of(cls, text: str) -> Stand | None:
        """Read one, `None` for what is none."""
        offset, slash, until = text.partition("/")
        if not _is_offset(offset) or (slash and not _is_offset(until)):
            return None
        return cls(int(offset), int(until) if slash else None)

    def __str__(self) -> str:
        """Write it as it stands in Redis."""
        return str(self.offset) if self.until is None else f"{self.offset}/{self.until}"


class ViewMarks:
    """The marks of a view whose keys begin with `prefix`; forgotten `ttl_s` after the last `claim`.

    Both calls raise `ServiceUnavailable`, and `ForeignKey` where a key is of another type.
    """

    def __init__(self, connections: RedisConnections, prefix: str, *, ttl_s: int) -> None:
        self._connections = connections
        self._prefix = prefix
        self._ttl_s = ttl_s
        self._known: dict[str, dict[str, str]] = {}
        self._servers: frozenset[str] = frozenset()
        # What was marked before other servers took over, which may lack what came since.
        self._before: dict[str, dict[str, str]] = {}

    async def read(self) -> Mapping[str, Stand]:
        """Give what is marked, by partition: the least that any mark says; else it is lacking."""
        await self._connections.find_kind()
        keys = _keys(self._prefix, is_cluster=self._connections.is_cluster)
        servers = await self._running()
        found = await asyncio.gather(*map(self._one, keys))
        self._known = dict(zip(keys, found, strict=True))
        found += self._before.values()
        self._servers, self._before = servers, {}
        read = [{name: Stand.of(text) for name, text in one.items()} for one in found]
        names = set(read[0]).intersection(*read[1:])
        stands = {}
        for name in names:
            of_all = [stand for one in read if (stand := one[name]) is not None]
            if len(of_all) == len(read):
                stands[name] = min(of_all, key=lambda stand: stand.offset)
        return stands

    async def claim(self, stands: Mapping[str, Stand]) -> bool:
        """Mark up to where the view has partitions, if all marks are as they were when last read.

        Where one is not, `False`: then some are marked, or none. So it is where a server was
        started again, or another took over: what was put since the last mark may be lost, though
        that mark is not. The next `read` then gives what was marked before this.
        """
        if not self._known:
            return False
        before = {key: dict(known) for key, known in self._known.items()}
        texts = {name: str(stand) for name, stand in stands.items()}
        claims = (self._claim(key, known, texts) for key, known in self._known.items())
        are_as_read = all(await asyncio.gather(*claims))
        if await self._running() != self._servers:
            self._before = self._before or before
            return False
        return are_as_read

    async def _running(self) -> frozenset[str]:
        """Give the ids of the servers that run now; those that may not be asked have none."""
        try:
            return await self._connections.ask(run_ids)
        except ServiceUnavailable as error:
            if isinstance(error.__cause__, NoPermissionError):
                return frozenset()
            raise

    async def _claim(self, key: str, known: dict[str, str], texts: Mapping[str, str]) -> bool:
        args: list[str | int] = [self._ttl_s]
        for name, text in texts.items():
            args += [name, known.get(name, ""), text]
        if not await self._connections.run(CLAIM, [key], args):
            return False
        known.update(texts)
        return True

    async def _one(self, key: str) -> dict[str, str]:
        return await self._connections.ask(
            lambda client: cast("Awaitable[dict[str, str]]", client.hgetall(key))
        )


def told_of(stands: Mapping[str, Stand]) -> str | None:
    """Say why a view that has these marks may lack sessions; `None`: it lacks none."""
    if not stands:
        return (
            "the view of sessions in Redis is empty, or was emptied: a worker makes it up from the "
            "log as soon as one runs"
        )
    redone = [stand for stand in stands.values() if stand.until is not None]
    if not redone:
        return None
    left = sum(max((stand.until or 0) - stand.offset, 0) for stand in redone)
    return (
        f"the view of sessions in Redis is being made up from the log, {left:,} records are left: "
        "some sessions are not shown, or not as they are; ask again in a while"
    )


@cache
def _keys(prefix: str, *, is_cluster: bool) -> Sequence[str]:
    if not is_cluster:
        return (f"{prefix}:view",)
    wanted = dict.fromkeys(range(MARKS_OF_A_CLUSTER), "")
    number = 0
    while not all(wanted.values()):
        part = key_slot(str(number).encode()) * MARKS_OF_A_CLUSTER // _SLOTS
        wanted[part] = wanted[part] or f"{prefix}:view:{{{number}}}"
        number += 1
    return tuple(wanted.values())


def _is_offset(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX
