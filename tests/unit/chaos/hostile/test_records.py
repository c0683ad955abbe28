"""Hostile records are as large as brokers take and no larger, and stand where they are to stand."""

from __future__ import annotations

import unicodedata

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from millstream.schemas.topics import REQUESTS
from millstream.streams.wire.partitioning import home_partition
from tests.chaos.hostile.records import KINDS

PARTITIONS = 4
BROKER_BYTES_MAX = 1_048_588


def batch_bytes(kind: str, *more: tuple[str, bytes]) -> int:
    one = KINDS[kind].make("ada", "hostile-1")
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 22,
    )
    headers = [*one.headers, *more]
    builder.append(0, timestamp=0, key=b"ada", value=one.value, headers=headers)
    return len(builder.build())


@pytest.mark.parametrize("kind", ["command", "headers"])
def test_a_broker_takes_it_as_it_is_and_not_with_a_header_more(kind: str) -> None:
    assert batch_bytes(kind) <= BROKER_BYTES_MAX
    assert batch_bytes(kind, ("millstream-origin", b"ns.requests/0/1")) > BROKER_BYTES_MAX


@pytest.mark.parametrize("kind", ["command", "headers"])
def test_it_stands_at_a_partition_that_is_not_its_users(kind: str) -> None:
    one = KINDS[kind].make("ada", "hostile-1")
    assert one.partition(PARTITIONS) == (home_partition("ada", PARTITIONS) + 1) % PARTITIONS


def test_the_name_is_within_the_bound_as_it_is_written_and_not_when_normalised() -> None:
    one = KINDS["name"].make("ada", "hostile-1")
    assert one.spec == REQUESTS
    assert len(one.user_id) == 200
    assert len(unicodedata.normalize("NFC", one.user_id)) == 400
