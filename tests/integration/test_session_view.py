"""The session view on real Kafka and Redis: it may be away or flushed, and goes on behind."""

from __future__ import annotations

from functools import partial

import pytest
import redis.asyncio
from aiokafka import AIOKafkaProducer

from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.events import CheckpointSaved
from millstream.schemas.sessions.states import SessionChanged
from millstream.schemas.topics import CHECKPOINTS, SESSION_EVENTS, SESSION_STATES, SESSIONS
from millstream.streams.sessions.memory import MemorySessionStore
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.wire.codec import tombstone
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.contracts.session_view_contract import state
from tests.harness.views import USERS, StartViews, counts, publish, run_of
from tests.support import eventually

pytestmark = pytest.mark.promise("P6")


class SwitchableStore(MemorySessionStore):
    """A view that can be away, and then has lost everything it held."""

    away = False

    async def put_checkpoint(self, event: CheckpointSaved, offset: int) -> bool:
        if self.away:
            message = "switched off"
            raise ServiceUnavailable(message)
        return await super().put_checkpoint(event, offset)


class BrokenStore(MemorySessionStore):
    """A view with a defect: no outage, so not to be waited for."""

    async def put_checkpoint(self, event: CheckpointSaved, offset: int) -> bool:
        raise KeyError(event.session_id, offset)


def memory_store() -> SwitchableStore:
    return SwitchableStore(lambda: 0)


async def test_a_view_that_was_away_gets_every_session_once_it_answers(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    store = memory_store()
    collector = MetricsCollector()
    views = await start_views(store, collector)
    store.away = True
    for number in (1, 2, 3):
        await publish(producer, deployment, run_of(number))
    await counts(views, (1, 2, 3))
    behind = "millstream_session_view_partitions_behind"
    await eventually(lambda: collector.registry.get_sample_value(behind))
    store.away = False
    for user in USERS:
        await eventually(partial(store.get, "default", user, f"{user}-s"))
    await eventually(lambda: collector.registry.get_sample_value(behind) == 0)
    await views.stop()


async def test_what_a_view_lacks_is_made_up_for_after_a_restart(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    store = memory_store()
    store.away = True
    views = await start_views(store)
    await publish(producer, deployment, run_of(1))
    await counts(views, [1])
    await views.stop()
    store.away = False
    views = await start_views(store)
    await eventually(lambda: store.get("default", "bob", "bob-s"))
    await counts(views, [1])
    await views.stop()


async def test_a_flushed_redis_has_its_sessions_again_by_itself(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    store = RedisSessionStore(deployment)
    collector = MetricsCollector()
    views = await start_views(store, collector)
    await eventually(store.marks.read)
    await publish(producer, deployment, run_of(1))
    await eventually(lambda: store.get("default", "bob", "bob-s"))
    lost = "millstream_session_view_losses_total"
    assert collector.registry.get_sample_value(lost) == 0
    async with redis.asyncio.Redis.from_url(deployment.redis_url) as client:
        keys = [key async for key in client.scan_iter(f"{deployment.namespace}:*")]
        await client.delete(*keys)
    kept = await eventually(lambda: store.get_checkpoint("default", "bob", "bob-s"))
    assert kept is not None
    assert kept.event.checkpoint_id == "c1"
    assert collector.registry.get_sample_value(lost) > 0

    async def is_whole() -> bool:
        return await store.lacks() is None

    await eventually(is_whole)
    await publish(producer, deployment, run_of(4))

    async def has_moved_on() -> bool:
        head = await store.get("default", "bob", "bob-s")
        return head is not None and (head.turn, head.last_request_id) == (5, "r4")

    await eventually(has_moved_on)
    await views.stop()
    await store.close()


async def test_view_shows_what_the_lane_made_of_sessions_and_forgets_what_it_deleted(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    store = MemorySessionStore(lambda: 0)
    views = await start_views(store)
    head = making.head(3, user_id="bob", session_id="s", template="chat_agent")
    records = [
        (SESSIONS, head),
        (SESSION_STATES, state(user="bob", now="closed")),
        (SESSION_STATES, state("gone", user="bob")),
        (CHECKPOINTS, making.checkpoint(user_id="bob", session_id="gone")),
    ]
    await publish(producer, deployment, records)
    await eventually(lambda: store.checkpoints("default", "bob", "gone"))
    shown = await eventually(lambda: store.get("default", "bob", "s"))
    assert shown is not None
    assert (shown.turn, shown.template) == (3, "chat_agent")
    deleted = state("gone", user="bob", revision=2, now="deleted")
    told = SessionChanged(
        user_id="bob", session_id="gone", at_ms=1, change="deleted", state="deleted", revision=2
    )
    await publish(producer, deployment, [(SESSION_STATES, deleted), (SESSION_EVENTS, told)])
    forgotten = tombstone(head.record_key)
    await producer.begin_transaction()
    await producer.send(
        deployment.topic(SESSIONS.name),
        None,
        key=forgotten.key,
        partition=home_partition(head.partition_key, deployment.partitions),
    )
    await producer.commit_transaction()

    async def is_gone() -> bool:
        return not await store.checkpoints("default", "bob", "gone")

    await eventually(is_gone)
    stats = await store.stats("default", "bob")
    assert (stats.open, stats.closed, stats.turns) == (0, 1, 3)

    def counted() -> bool:
        assert views.totals(SESSION_STATES.name).totals == {
            "session_states|closed": 1,
            "session_states|open": 1,
            "session_states|deleted": 1,
        }
        assert views.totals(SESSION_EVENTS.name).totals == {"session_changes|deleted": 1}
        # A key that is to be forgotten is no record that cannot be read.
        assert views.totals(SESSIONS.name).totals == {"session_heads|": 1}
        return True

    await eventually(counted)
    await views.stop()


async def test_views_that_failed_say_so_and_write_nothing_more(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    store = BrokenStore(lambda: 0)
    views = await start_views(store)
    await publish(producer, deployment, run_of(1))
    await eventually(lambda: isinstance(views.failure, KeyError))
    assert "KeyError" in views.unready()[0]
    await publish(producer, deployment, run_of(2))
    await views.stop()
    views = await start_views()
    await counts(views, (1, 2))
    await views.stop()
