"""Topics of sessions in memory, and what stands in a real Redis that is fed with them."""

from __future__ import annotations

from typing import Any, cast

import redis.asyncio
from aiokafka import TopicPartition

from millstream.schemas.base import Event
from millstream.schemas.topics import CHECKPOINTS, RESULTS, SESSION_STATES, SESSIONS, TopicSpec
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from millstream.streams.views.session_feed import feeds_of
from millstream.streams.wire.codec import encode, tombstone
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.contracts.session_store_contract import checkpoint, result
from tests.contracts.session_view_contract import state

USERS = ("ada", "bob", "a}d{a")


class SessionTopics:
    """Topics in memory, whose records a view is fed with as they are written."""

    def __init__(self, settings: Settings, store: RedisSessionStore) -> None:
        self.settings = settings
        self._puts = {spec.name: put for spec, put in feeds_of(store)}
        self.broker = MemoryBroker(settings)
        self.broker.create_topics([spec for spec, _ in feeds_of(store)])

    def append(self, spec: TopicSpec, event: Event) -> int:
        encoded = encode(event, source="test")
        return self.broker.append(self._home(spec, event), encoded.key, encoded.value).offset

    async def write(self, spec: TopicSpec, event: Event) -> None:
        await self._puts[spec.name](event, self.append(spec, event))

    def forget(self, spec: TopicSpec, event: Event) -> None:
        encoded = tombstone(event.record_key)
        self.broker.append(self._home(spec, event), encoded.key, encoded.value)

    def spoil(self) -> None:
        where = TopicPartition(self.settings.topic(CHECKPOINTS.name), 0)
        self.broker.append(where, b"k", b"no event")

    async def reader(self) -> PartitionReader:
        reader = PartitionReader(self.settings, MemoryClients(self.broker))
        await reader.start()
        return reader

    async def fill(self) -> None:
        for user in USERS:
            for number in range(40):
                name = f"s:{number}"
                for turn in range(1, 1 + number % 4):
                    head = making.head(
                        turn, user_id=user, session_id=name, created_at_ms=1000, at_ms=1000 * turn
                    )
                    await self.write(SESSIONS, head)
                    await self.write(CHECKPOINTS, checkpoint(name, user=user, turn=turn))
                await self.write(RESULTS, result(name, user=user))
                if number % 3 == 0:
                    await self.write(SESSION_STATES, state(name, user=user, now="closed"))
                if number % 9 == 0:
                    gone = state(name, user=user, now="deleted", revision=2)
                    await self.write(SESSION_STATES, gone)
                    self.forget(SESSIONS, making.head(user_id=user, session_id=name))

    def _home(self, spec: TopicSpec, event: Event) -> TopicPartition:
        number = home_partition(event.partition_key, self.settings.partitions)
        return TopicPartition(self.settings.topic(spec.name), number)


async def content(client: redis.asyncio.Redis, settings: Settings) -> dict[str, object]:
    """Give all that stands in Redis of a namespace."""
    found: dict[str, object] = {}
    async for key in client.scan_iter(f"{settings.namespace}:*"):
        match await client.type(key):
            case "hash":
                found[key] = await cast("Any", client.hgetall(key))
            case "zset":
                found[key] = await client.zrange(key, 0, -1, withscores=True)
            case _:
                found[key] = await client.get(key)
    return found
