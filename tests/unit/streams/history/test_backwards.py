"""The newest so many are the last ones of the whole replay, whatever the logs look like."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from aiokafka import TopicPartition
from hypothesis import HealthCheck, example, given
from hypothesis import settings as such
from hypothesis import strategies as st

from millstream.schemas.base import Address
from millstream.schemas.events import Origin
from millstream.schemas.topics import BASE_TOPICS, CONTROL, REQUESTS, TOKENS
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.bus.api import EventFilter
from millstream.streams.bus.memory import MemoryLog
from millstream.streams.bus.record_log import Entry
from millstream.streams.history import backwards
from millstream.streams.history.replay import HistoryQuery, _batches, replay
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import ORIGIN, encode
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.unread import UnreadBatch
from tests.contracts.bus_world import token

pytestmark = pytest.mark.promise("P8")

TOPICS = (REQUESTS, CONTROL, TOKENS)
NOW_MS = time.time_ns() // 1_000_000

Write = tuple[int, str, str]
"""By how much the broker's clock moves first, in ms; what is written; for whom."""

writes = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 3, 500, 60_000, -2, -700, 86_400_000, -86_400_000]),
        st.sampled_from(
            ["token", "aborted", "marker", "junk", "request", "moved", "copy", "cancel"]
        ),
        st.sampled_from(["ada", "grace", "linus"]),
    ),
    max_size=60,
)


@pytest.fixture(autouse=True, scope="module")
def short_stretches() -> Iterator[None]:
    """Have few records stand in a stretch: these logs are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backwards, "_STRETCH_OFFSETS_MIN", 2)
        patch.setattr(backwards, "_STRETCH_OFFSETS_PER_ENTRY", 1)
        patch.setattr(backwards, "_STRETCH_OVER_MAX", 2)
        yield


class Filled:
    """A broker whose clock goes as it likes, and what was written to it."""

    def __init__(self, began_ms: int) -> None:
        self.settings = Settings(namespace="memory")
        self.now_ms = began_ms
        self.broker = MemoryBroker(self.settings, lambda: self.now_ms)
        self.broker.create_topics(BASE_TOPICS)
        self._moved: list[tuple[str, Address]] = []
        self._count = 0

    def write(self, moved_ms: int, kind: str, user: str) -> None:
        self.now_ms = max(1, self.now_ms + moved_ms)
        self._count += 1
        home = home_partition(user, self.settings.partitions)
        where = TopicPartition(self.settings.topic(TOKENS.name), home)
        key = user.encode()
        match kind:
            case "token":
                told = encode(token(self._count, user=user), source="/test")
                self.broker.append(where, told.key, told.value, told.headers)
            case "junk":
                self.broker.append(where, key, b"junk", ())
            case "aborted" | "marker":
                told = encode(token(self._count, user=user), source="/test")
                partition = self.broker.partition(where)
                partition.append(self.now_ms, told.key, told.value, producer_id=1)
                partition.mark(1, self.now_ms, is_commit=kind == "marker")
            case "copy":
                for asker, source in self._moved[-1:]:
                    self._ask(asker, home_partition(asker, self.settings.partitions), source)
            case "cancel":
                topic = self.settings.topic(CONTROL.name)
                value = f'{{"user_id": "{user}", "command": "cancel", "request_id": "r1"}}'
                self.broker.append(TopicPartition(topic, home), key, value.encode(), ())
            case _:
                elsewhere = (home + (kind == "moved")) % self.settings.partitions
                source = self._ask(user, elsewhere, None)
                if kind == "moved":
                    self._moved.append((user, source))

    def _ask(self, user: str, partition: int, source: Address | None) -> Address:
        where = TopicPartition(self.settings.topic(REQUESTS.name), partition)
        value = f'{{"user_id": "{user}", "input": "{self._count}"}}'.encode()
        headers = ()
        if source is not None:
            headers = ((ORIGIN, Origin(source=source).model_dump_json().encode()),)
        return self.broker.append(where, user.encode(), value, headers)

    async def replayed(self, query: HistoryQuery) -> list[Entry]:
        log = MemoryLog(self.broker)
        return [one async for one in replay(log, self.settings, query)]


@example(
    written=[(0, "token", "ada"), (1, "moved", "ada"), (-86_400_000, "copy", "ada")],
    limit=1,
    user=None,
    request=None,
    ahead_ms=0,
)
@such(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    written=writes,
    limit=st.integers(1, 12),
    user=st.sampled_from([None, "ada"]),
    request=st.sampled_from([None, "r1"]),
    ahead_ms=st.sampled_from([0, -3_600_000, 3_600_000]),
)
async def test_the_newest_are_the_last_of_the_whole_replay(
    written: list[Write], limit: int, user: str | None, request: str | None, ahead_ms: int
) -> None:
    filled = Filled(NOW_MS + ahead_ms)
    for one in written:
        filled.write(*one)
    wanted = EventFilter(user_id=user, request_id=request)
    whole = await filled.replayed(HistoryQuery(topics=TOPICS, wanted=wanted))
    newest = await filled.replayed(HistoryQuery(topics=TOPICS, wanted=wanted, limit=limit))
    assert [one.address for one in newest] == [one.address for one in whole[-limit:]]


async def test_a_lost_batch_is_shown_wherever_an_offset_of_it_is_asked_for() -> None:
    filled = Filled(NOW_MS)
    for kind in ("token", "aborted", "aborted"):  # an offset each for record and marker
        filled.write(1, kind, "ada")
    home = home_partition("ada", filled.settings.partitions)
    where = TopicPartition(filled.settings.topic(TOKENS.name), home)
    batch = UnreadBatch.of(5, 5, "it is wrong", is_foreign=True)
    batch.first = 1  # what was aborted stands for the offsets of its records
    filled.broker.append(where, None, batch, ())
    filled.write(1, "token", "ada")

    async def shown(first: int, until: int, limit: int | None = None) -> list[int]:
        query = HistoryQuery(
            topics=(TOKENS,),
            partition=home,
            offset_from=first,
            offset_until=until,
            limit=limit,
        )
        return [one.address.offset for one in await filled.replayed(query)]

    assert await shown(2, 4) == [5]
    assert await shown(2, 4, limit=5) == [5]
    assert await shown(5, 6) == [5]
    assert await shown(0, 1) == [0]
    assert await shown(6, 7) == [6]


async def test_few_of_many_are_read() -> None:
    filled = Filled(NOW_MS)
    for _ in range(400):
        filled.write(1, "token", "ada")
    read: list[int] = []
    query = HistoryQuery(topics=TOPICS, limit=3)
    log = MemoryLog(filled.broker)
    newest = [
        one
        async for one in replay(
            log, filled.settings, query, on_progress=lambda done, _: read.append(done)
        )
    ]
    assert [one.address.offset for one in newest] == [397, 398, 399]
    assert read[-1] < 20


@pytest.mark.parametrize("limit", [300, 900, 5_000])
async def test_however_many_are_asked_for_they_come_in_small_batches(limit: int) -> None:
    filled = Filled(NOW_MS)
    for number in range(300):
        filled.write(1, "token", ("ada", "grace", "linus")[number % 3])
        filled.write(0, "moved" if number % 2 else "request", "ada")
        filled.write(0, "copy", "ada")
    whole = await filled.replayed(HistoryQuery(topics=TOPICS))
    query = HistoryQuery(topics=TOPICS, limit=limit)
    batches = [
        one async for one in _batches(MemoryLog(filled.broker), filled.settings, query, None)
    ]
    assert [one.address for batch in batches for one in batch] == [
        one.address for one in whole[-limit:]
    ]
    assert max(map(len, batches)) <= 200


async def test_fewer_than_are_asked_for_are_all_there_are() -> None:
    filled = Filled(NOW_MS)
    for _ in range(7):
        filled.write(5_000, "token", "ada")
    assert len(await filled.replayed(HistoryQuery(topics=TOPICS, limit=100))) == 7


@pytest.mark.parametrize("looked_through", [0, 20_000], ids=["from-its-time-on", "all"])
async def test_a_copy_is_not_shown_if_what_it_was_copied_from_stands_before_the_stretch(
    monkeypatch: pytest.MonkeyPatch, looked_through: int
) -> None:
    monkeypatch.setattr(backwards, "_LOOKED_THROUGH_OFFSETS_MAX", looked_through)
    filled = Filled(NOW_MS)
    filled.write(0, "moved", "ada")
    for _ in range(50):
        filled.write(10, "token", "ada")
    filled.write(10, "copy", "ada")
    whole = await filled.replayed(HistoryQuery(topics=TOPICS))
    assert await filled.replayed(HistoryQuery(topics=TOPICS, limit=1)) == whole[-1:]
