"""What was fetched and is not read to its end, or was assigned, goes with its last reference."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any
from weakref import ref

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from millstream.streams.broker.aiokafka_patches import bound_fetches

READ_COMMITTED = 1


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Keep the collector from doing what is to happen without it."""
    gc.disable()
    yield
    gc.enable()


def fetched(count: int) -> Any:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=100_000,
    )
    for offset in range(count):
        builder.append(offset, 5000, b"ada", b"x%d" % offset, [])
    return fetcher.PartitionRecords(
        TopicPartition("requests", 0),
        fetcher.MemoryRecords(bytes(builder.build())),
        [],
        0,
        None,
        None,
        True,
        READ_COMMITTED,
    )


@pytest.mark.usefixtures("no_collection")
def test_what_is_read_in_part_goes_with_its_last_reference() -> None:
    bound_fetches()
    records = fetched(5)
    assert next(records).value == b"x0"
    gone = ref(records)
    del records
    assert gone() is None


def test_all_is_read_as_before() -> None:
    bound_fetches()
    records = fetched(5)
    assert [one.offset for one in records] == [0, 1, 2, 3, 4]
    assert records.next_fetch_offset == 5


@pytest.mark.usefixtures("no_collection")
async def test_what_was_assigned_goes_when_something_else_is() -> None:
    bound_fetches()
    where = TopicPartition("requests", 0)
    subscriptions = SubscriptionState()
    subscriptions.assign_from_user([where])
    subscriptions.seek(where, 7)
    assignment = subscriptions.subscription.assignment
    assert assignment.state_value(where).position == 7
    gone = ref(assignment)
    del assignment
    subscriptions.assign_from_user([where])
    assert gone() is None


async def test_what_a_partition_committed_can_be_asked_as_before() -> None:
    bound_fetches()
    where = TopicPartition("requests", 0)
    subscriptions = SubscriptionState()
    subscriptions.assign_from_user([where])
    assignment = subscriptions.subscription.assignment
    asked = assignment.state_value(where).fetch_committed()
    assert assignment.commit_refresh_needed.is_set()
    assert assignment.requesting_committed() == [where]
    assert not asked.done()
