"""The session view made anew: a broker in memory has the topics, and Redis is a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.topics import CHECKPOINTS, SESSIONS
from millstream.streams.sessions.in_redis.switching import alone
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from millstream.streams.views.session_feed import feeds_of
from millstream.streams.views.session_rebuild import Progress, rebuild_sessions
from tests import making
from tests.harness.session_topics import USERS, SessionTopics, content


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[RedisSessionStore]:
    store = RedisSessionStore(settings)
    yield store
    await store.close()


@pytest.fixture
async def topics(settings: Settings, store: RedisSessionStore) -> SessionTopics:
    return SessionTopics(settings, store)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(settings.redis_url, decode_responses=True)
    yield client
    await client.aclose()


async def test_rebuilt_view_equals_the_old_one_value_by_value(
    settings: Settings, store: RedisSessionStore, topics: SessionTopics, client: redis.asyncio.Redis
) -> None:
    await topics.fill()
    before = await content(client, settings)
    reader = await topics.reader()
    told: list[Progress] = []
    made = await rebuild_sessions(settings, store, reader, tell=told.append)
    assert made.users == len(USERS)
    assert made.unreadable == 0
    assert await content(client, settings) == before
    last = {one.topic: one for one in told}
    assert set(last) == {spec.name for spec, _ in feeds_of(store)}
    assert all(one.done == one.of for one in last.values())


async def test_flushed_and_spoilt_views_are_whole_again_and_foreign_keys_are_left(
    settings: Settings, store: RedisSessionStore, topics: SessionTopics, client: redis.asyncio.Redis
) -> None:
    await topics.fill()
    topics.spoil()
    before = await content(client, settings)
    keys = sorted(before)
    await client.delete(*keys[: len(keys) // 2])
    session = f"{settings.namespace}:{{default/ada}}:session:s%3A1"
    index = f"{settings.namespace}:{{default/bob}}:places"
    never = f"{settings.namespace}:{{default/ada}}:session:never"
    await client.delete(session, index)
    await client.hset(session, "head", "spoilt")
    await client.zadd(index, {"000000000000001:never": 0})
    await client.hset(never, "turn", "1")
    foreign = f"{settings.namespace}:{{default/ada}}:checkpoint:s%3A2"
    await client.delete(foreign)
    await client.set(foreign, "mine")
    reader = await topics.reader()
    made = await rebuild_sessions(settings, store, reader)
    assert made.unreadable == 1
    assert await content(client, settings) == before | {foreign: "mine"}


async def test_what_is_written_while_the_view_is_made_anew_is_in_it(
    settings: Settings, store: RedisSessionStore, topics: SessionTopics
) -> None:
    await topics.fill()
    reader = await topics.reader()

    late = [making.head(9, user_id="ada", session_id=f"late{number}") for number in range(3)]
    waits = iter(late)

    def tell(_progress: Progress) -> None:
        event = next(waits, None)
        if event is not None:
            topics.append(SESSIONS, event)

    await rebuild_sessions(settings, store, reader, tell=tell)
    for event in late:
        shown = await store.get("default", "ada", event.session_id)
        assert shown is not None
        assert shown.turn == 9


async def test_readers_see_the_old_view_until_the_new_one_is_whole(
    settings: Settings, store: RedisSessionStore, topics: SessionTopics, client: redis.asyncio.Redis
) -> None:
    await topics.fill()
    before = await content(client, settings)
    reader = await topics.reader()

    class Stopped(Exception):
        """Somebody stops it on the way."""

    def stop(progress: Progress) -> None:
        if progress.topic == CHECKPOINTS.name:
            raise Stopped

    with pytest.raises(Stopped):
        await rebuild_sessions(settings, store, reader, tell=stop)
    assert await content(client, settings) == before


async def test_two_do_not_make_it_anew_at_once(
    settings: Settings, store: RedisSessionStore, topics: SessionTopics
) -> None:
    reader = await topics.reader()
    async with alone(store.connections, store.prefix):
        with pytest.raises(ServiceUnavailable, match="being made anew already"):
            await rebuild_sessions(settings, store, reader)
    assert (await rebuild_sessions(settings, store, reader)).records == 0
