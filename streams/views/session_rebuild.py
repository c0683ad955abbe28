"""The session view made anew from its topics, beside the one that is in use, and put in its place.

Readers see the old view until the new one has all that the topics have, and then, user by user, the
new one. What is written meanwhile goes to the old view, and is read once more into the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiokafka import TopicPartition

from millstream.schemas.base import Event
from millstream.schemas.errors import Poison
from millstream.schemas.topics import TopicSpec
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.sessions.in_redis.switching import alone, clear, renew, switch
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.views.session_feed import Put, batches, feeds_of
from millstream.streams.wire.codec import decode

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

__all__ = ["Progress", "Rebuilt", "rebuild_sessions"]

_ROUNDS_MAX: Final = 5
"""How often what came meanwhile is read before the switch; the rest is read behind it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a topic is read: records' offsets that are behind, of those that there are."""

    topic: str
    done: int
    of: int


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What the new view was made of, and how many users it has sessions of."""

    records: int
    unreadable: int
    users: int


Tell = Callable[[Progress], None]


async def rebuild_sessions(
    settings: Settings,
    store: RedisSessionStore,
    reader: PartitionReader,
    *,
    tell: Tell = lambda _: None,
) -> Rebuilt:
    """Make the view anew, and put it in the place of the one that is in use.

    `reader` is started. Raises `ServiceUnavailable` where Kafka or Redis do not answer, or another
    one is at it, and `LaneLost` where an open transaction holds back a topic's end. Nothing has
    changed then, unless that came after the switch had begun; it may be called again.
    """
    connections = store.connections
    async with alone(connections, store.prefix) as token:
        made = store.beside("anew")
        await clear(connections, made.prefix)
        keep = partial(renew, connections, store.prefix, token)
        reading = _Reading(settings, reader, tell, keep)
        try:
            for _ in range(_ROUNDS_MAX):
                if not await reading.on(made):
                    break
            await keep()
            users = await switch(connections, made.prefix, store.prefix)
        finally:
            await clear(connections, made.prefix)
        # Nobody wrote to the new view but this: what came since is in the old one, which is gone.
        await reading.on(store)
    return Rebuilt(reading.records, reading.unreadable, users)


class _Reading:
    """Reads the topics on from where it stands; `keep` is awaited between batches."""

    def __init__(
        self,
        settings: Settings,
        reader: PartitionReader,
        tell: Tell,
        keep: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._tell = tell
        self._keep = keep
        self._stands: dict[TopicPartition, int] = {}
        self.records = 0
        self.unreadable = 0

    async def on(self, store: RedisSessionStore) -> int:
        """Read what there is into a store; give how many records that were."""
        before = self.records
        for spec, put in feeds_of(store):
            await self._topic(spec, put)
        return self.records - before

    async def _topic(self, spec: TopicSpec, put: Put) -> None:
        topic = self._settings.topic(spec.name)
        partitions = [TopicPartition(topic, one) for one in range(self._settings.partitions)]
        ends = await self._reader.high_watermarks(partitions)
        for where in partitions:
            begins = self._stands.get(where, 0)
            if begins < ends[where]:
                await self._stretch(spec, put, where, ends)
                self._stands[where] = ends[where]
            self._told(spec, ends)

    async def _stretch(
        self,
        spec: TopicSpec,
        put: Put,
        where: TopicPartition,
        ends: Mapping[TopicPartition, int],
    ) -> None:
        begins = self._stands.get(where, 0)
        async with aclosing(batches(self._reader, where, begins, ends[where])) as found:
            async for records, behind in found:
                events = [one for one in map(partial(self._event, spec), records) if one]
                self.records += len(events)
                await self._keep()
                await asyncio.gather(*(put(event, offset) for event, offset in events))
                self._stands[where] = behind
                self._told(spec, ends)

    def _event(self, spec: TopicSpec, record: Any) -> tuple[Event, int] | None:
        try:
            return decode(record, spec.event), record.offset
        except Poison:
            self.unreadable += record.value is not None  # else: a key to be forgotten
            return None

    def _told(self, spec: TopicSpec, ends: Mapping[TopicPartition, int]) -> None:
        done = sum(self._stands.get(where, 0) for where in ends)
        self._tell(Progress(spec.name, done, sum(ends.values())))
