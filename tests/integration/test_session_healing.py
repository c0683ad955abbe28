"""A view that lost what it had gets it again: a broker in memory has the topics, Redis is real."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import redis.asyncio

from millstream.schemas.base import Event
from millstream.schemas.topics import CHECKPOINTS, SESSION_STATES, SESSIONS, TopicSpec
from millstream.streams.sessions.in_redis.marks import MARKS_OF_A_CLUSTER, Stand, told_of
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from millstream.streams.views.session_feed import SessionFeed, feeds_of
from millstream.streams.views.session_healing import Fed, SessionHealing
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.contracts.session_store_contract import checkpoint
from tests.contracts.session_view_contract import state
from tests.harness.redis_servers import redis_cluster, redis_server
from tests.harness.session_topics import USERS, SessionTopics, content

pytestmark = pytest.mark.promise("P6")


class Fill:
    """A view that is fed as a worker feeds it, from topics in memory."""

    def __init__(self, settings: Settings, store: RedisSessionStore) -> None:
        self.settings = settings
        self.store = store
        self.topics = SessionTopics(settings, store)
        self.lost = 0
        self.healing = SessionHealing(settings, self._fed, store.marks, on_lost=self._on_lost)
        self.feeds: dict[str, SessionFeed[Any]] = {
            spec.name: SessionFeed(settings, settings.topic(spec.name), spec.event, put)
            for spec, put in feeds_of(store)
        }
        self.marks = store.marks

    async def write(self, spec: TopicSpec, event: Event) -> None:
        offset = self.topics.append(spec, event)
        home = home_partition(event.partition_key, self.settings.partitions)
        await self.feeds[spec.name].offer(event, home, offset)

    async def fill(self) -> None:
        for user in USERS:
            for number in range(4):
                name = f"s:{number}"
                head = making.head(2, user_id=user, session_id=name, created_at_ms=1000, at_ms=2000)
                await self.write(SESSIONS, head)
                await self.write(CHECKPOINTS, checkpoint(name, user=user, turn=2))
                if number:
                    ends = "deleted" if number % 2 else "closed"
                    await self.write(SESSION_STATES, state(name, user=user, now=ends))

    async def compare(self) -> None:
        """Do what a worker does each second."""
        await self.healing.compare(self.marks)

    async def catch_up(self) -> None:
        reader = await self.topics.reader()
        for feed in self.feeds.values():
            await feed.catch_up(reader)
        await reader.stop()
        await self.compare()

    def _fed(self) -> Iterator[Fed]:
        for name, feed in self.feeds.items():
            for partition in range(self.settings.partitions):
                yield Fed(name, partition, feed, 0)

    def _on_lost(self) -> None:
        self.lost += 1


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(settings.redis_url, decode_responses=True)
    yield client
    await client.aclose()


@asynccontextmanager
async def filled(settings: Settings) -> AsyncIterator[Fill]:
    store = RedisSessionStore(settings)
    fill = Fill(settings, store)
    try:
        await fill.compare()
        await fill.fill()
        await fill.compare()
        assert fill.lost == 0
        assert await store.lacks() is None
        yield fill
    finally:
        await store.close()


async def forget(client: redis.asyncio.Redis, settings: Settings) -> None:
    await client.delete(*await content(client, settings))


async def test_view_that_was_emptied_is_whole_again_and_tells_of_it_meanwhile(
    settings: Settings, client: redis.asyncio.Redis
) -> None:
    async with filled(settings) as fill:
        before = await content(client, settings)
        await forget(client, settings)
        told = await fill.store.lacks()
        assert told is not None
        assert "is empty, or was emptied" in told
        await fill.compare()
        assert fill.lost > 0
        told = await fill.store.lacks()
        assert told is not None
        assert "is being made up from the log" in told
        await fill.catch_up()
        assert await content(client, settings) == before
        assert await fill.store.lacks() is None
        lost = fill.lost
        await fill.compare()
        assert fill.lost == lost


async def test_what_an_older_copy_lacks_is_made_up_for_from_where_it_stands(
    settings: Settings, client: redis.asyncio.Redis
) -> None:
    async with filled(settings) as fill:
        older = {key: await client.dump(key) for key in await content(client, settings)}
        late = making.head(7, user_id="ada", session_id="late")
        await fill.write(SESSIONS, late)
        await fill.compare()
        before = await content(client, settings)
        await forget(client, settings)
        for key, dumped in older.items():
            await client.restore(key, 60_000, cast("bytes", dumped))
        assert await fill.store.get("default", "ada", "late") is None
        await fill.compare()
        assert fill.lost == 1
        await fill.catch_up()
        assert await content(client, settings) == before


async def test_what_came_since_the_last_mark_is_made_up_for_where_a_server_began_anew(
    settings: Settings, tmp_path: Path
) -> None:
    async with redis_server(tmp_path / "redis") as server:
        own = settings.model_copy(update={"redis_url": server.url})
        async with filled(own) as fill:
            async with redis.asyncio.Redis.from_url(server.url) as client:
                await client.save()
            await fill.write(SESSIONS, making.head(7, user_id="ada", session_id="late"))
            await server.kill()
            await server.start()
            await fill.store.close()  # its connections are of the old server
            assert await fill.store.get("default", "ada", "s:0") is not None
            assert await fill.store.get("default", "ada", "late") is None
            assert await fill.store.lacks() is None  # the mark is as it was
            await fill.compare()
            assert fill.lost == 1
            await fill.catch_up()
            assert await fill.store.get("default", "ada", "late") is not None
            lost = fill.lost
            await fill.compare()
            assert fill.lost == lost


async def test_what_is_lost_between_a_look_and_its_mark_is_seen_by_the_next(
    settings: Settings, client: redis.asyncio.Redis
) -> None:
    async with filled(settings) as fill:
        before = await content(client, settings)
        await fill.marks.read()
        await forget(client, settings)
        stands = {fed.name: fed.stand() for fed in fill._fed()}
        assert not await fill.marks.claim(stands)
        assert await content(client, settings) == {}
        await fill.compare()
        await fill.catch_up()
        assert await content(client, settings) == before


async def test_view_that_is_emptied_while_it_is_made_up_begins_again(
    settings: Settings, client: redis.asyncio.Redis
) -> None:
    async with filled(settings) as fill:
        before = await content(client, settings)
        await forget(client, settings)
        await fill.compare()
        reader = await fill.topics.reader()
        await fill.feeds[SESSION_STATES.name].catch_up(reader)
        await reader.stop()
        await forget(client, settings)
        await fill.compare()
        await fill.catch_up()
        assert await content(client, settings) == before


async def test_what_comes_while_the_view_is_made_up_is_shown_at_once(settings: Settings) -> None:
    async with filled(settings) as fill:
        for feed in fill.feeds.values():
            for partition in range(settings.partitions):
                stand = feed.stand(partition, 0)
                feed.lost(partition, 0, stand.offset)
        await fill.write(SESSIONS, making.head(9, user_id="bob", session_id="new"))
        shown = await fill.store.get("default", "bob", "new")
        assert shown is not None
        assert shown.turn == 9
        await fill.catch_up()
        assert await fill.store.lacks() is None


async def test_cluster_of_which_one_node_was_emptied_has_its_view_again(
    settings: Settings, tmp_path: Path
) -> None:
    async with redis_cluster(tmp_path) as nodes:
        url = f"redis+cluster://{nodes[0]},{nodes[1]}"
        for emptied in nodes:
            of_cluster = settings.model_copy(
                update={"redis_url": url, "namespace": f"n{nodes.index(emptied)}"}
            )
            async with filled(of_cluster) as fill:
                before = [await fill.store.get("default", user, "s:0") for user in USERS]
                assert None not in before
                async with redis.asyncio.Redis.from_url(f"redis://{emptied}") as node:
                    await node.flushall()
                assert await fill.store.lacks() is not None
                await fill.compare()
                assert fill.lost > 0
                await fill.catch_up()
                assert [await fill.store.get("default", one, "s:0") for one in USERS] == before
                assert await fill.store.lacks() is None
        assert 2 * len(nodes) <= MARKS_OF_A_CLUSTER


def test_marks_that_nobody_could_have_written_are_none() -> None:
    assert [Stand.of(text) for text in ("5", "5/9", "0")] == [Stand(5), Stand(5, 9), Stand(0)]
    for text in ("", "/", "5/", "-1", "5/x", "٣", "9" * 20, "5/9/1"):
        assert Stand.of(text) is None, text
    assert str(Stand(5)) == "5"
    assert str(Stand(5, 9)) == "5/9"


def test_view_tells_how_much_it_lacks() -> None:
    assert told_of({"a/0": Stand(4), "a/1": Stand(0)}) is None
    told = told_of({"a/0": Stand(4), "a/1": Stand(1000, 3000), "b/0": Stand(7, 7)})
    assert told is not None
    assert "2,000 records" in told
