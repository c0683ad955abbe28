"""What was fetched and is not read to its end goes with its last reference."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any
from weakref import ref

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
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
