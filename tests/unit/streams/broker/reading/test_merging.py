"""Several partitions read as one: in the order of the brokers' clocks, with little in memory."""

from __future__ import annotations

import random
from typing import Any

import pytest
from aiokafka import TopicPartition

from millstream.schemas.errors import LaneLost
from millstream.schemas.topics import ATTEMPTS, COSTS, DECISIONS, RESULTS
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.reading.merging import Span
from tests.harness.deployment import Deployment

pytestmark = pytest.mark.rule(4)

SPECS = (DECISIONS, ATTEMPTS, COSTS, RESULTS)


def filled(*times: list[int]) -> Deployment:
    """Give topics with a record for each of the times, topic by topic."""
    deployment = Deployment(1, snapshot_records=1)
    for spec, moments in zip(SPECS, times, strict=False):
        for at_ms in moments:
            deployment.clock.now_ms = at_ms
            deployment.broker.append(deployment.where(spec), b"k", str(at_ms).encode())
    return deployment


async def read(deployment: Deployment, spans: list[Span], **how: Any) -> list[Any]:
    async with deployment.reader() as reader:
        return [one async for batch in reader.read_in_order(spans, **how) for one in batch]


def whole(deployment: Deployment, *specs: Any) -> list[Span]:
    return [Span(deployment.where(spec), deployment.end(spec)) for spec in specs or SPECS]


@pytest.mark.parametrize("seed", range(5))
async def test_records_come_in_the_order_of_time_and_of_topics_where_that_is_equal(
    seed: int,
) -> None:
    chance = random.Random(seed)  # noqa: S311  the same times each time
    times = [sorted(chance.choices(range(500), k=chance.choice((0, 3, 700)))) for _ in SPECS]
    deployment = filled(*times)
    records = await read(deployment, whole(deployment))
    places = [deployment.settings.topic(spec.name) for spec in SPECS]
    got = [(one.timestamp, places.index(one.topic), one.offset) for one in records]
    assert got == sorted(got)
    assert len(got) == sum(map(len, times))


async def test_of_one_partition_the_offsets_are_the_order_whatever_its_clock_says() -> None:
    deployment = filled([100, 900, 200, 300], [500])
    records = await read(deployment, whole(deployment))
    assert [one.value for one in records] == [b"100", b"500", b"900", b"200", b"300"]


async def test_what_is_first_in_the_list_is_read_ahead_of_what_follows_from_it() -> None:
    """A decision that a slow clock dates behind its result."""
    deployment = filled([1040], [], [], [1000])
    (first, second) = await read(deployment, whole(deployment), lead_ms=1000)
    assert (first.value, second.value) == (b"1040", b"1000")


async def test_stretches_begin_and_end_where_they_are_told_to() -> None:
    deployment = filled([100, 200, 300, 400], [100, 200, 300, 400], [100, 200])
    one, two, three = (deployment.where(spec) for spec in SPECS[:3])
    spans = [Span(one, 3, from_offset=1), Span(two, 4, since_ms=250), Span(three, 0)]
    got = [(record.topic, record.offset) for record in await read(deployment, spans)]
    assert got == [(one.topic, 1), (one.topic, 2), (two.topic, 2), (two.topic, 3)]
    assert await read(deployment, []) == []
    assert await read(deployment, [Span(one, 2, from_offset=2)]) == []


class Counted(PartitionReader):
    """A reader that counts how many records it was handed and has not passed on."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(deployment.settings, deployment.clients)
        self.fetched = 0

    async def start(self) -> None:
        await super().start()
        consumer: Any = self._consumer
        getmany = consumer.getmany

        async def counted(*where: TopicPartition, **how: Any) -> Any:
            found = await getmany(*where, **how)
            self.fetched += sum(map(len, found.values()))
            return found

        consumer.getmany = counted


async def test_what_is_read_ahead_is_bounded_however_long_the_topics_are() -> None:
    """As Faust 74 and 218: what is read ahead must neither grow nor hold up what is to be read."""
    times = list(range(3000))
    deployment = filled(times, [0] * 3000, times, [2999] * 3000)
    reader = Counted(deployment)
    await reader.start()
    passed_on = most = 0
    async for batch in reader.read_in_order(whole(deployment)):
        most = max(most, reader.fetched - passed_on)
        passed_on += len(batch)
    await reader.stop()
    assert passed_on == 12_000
    assert most < 2500


async def test_an_open_transaction_is_waited_for_and_named_if_it_never_ends() -> None:
    deployment = filled([100], [100])
    where = deployment.where(ATTEMPTS)
    log = deployment.broker.partition(where)
    log.append(200, b"k", b"v", producer_id=7)
    spans = whole(deployment, DECISIONS, ATTEMPTS)
    names = f"{where.topic}-{where.partition}: an open transaction held back"
    with pytest.raises(LaneLost, match=names):
        await read(deployment, spans, stall_timeout_s=0.3)
    log.mark(7, 300, is_commit=True)
    records = await read(deployment, spans)
    assert [one.value for one in records] == [b"100", b"100", b"v"]
