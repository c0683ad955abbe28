from __future__ import annotations

import pytest
from aiokafka import TopicPartition

from millstream.streams.transactions.hanging.coordinator_log import (
    TransactionOutcome,
    UnknownFormat,
    coordinator_partition,
    is_of,
    read_verdict,
)

# As Kafka 4.3.1 wrote them, of the same transaction.
PREPARED = bytes.fromhex(
    "00010000000000000005000900004e2002"
    "0803743602000000010004743130020000000100037437020000000100037438020000000100037439020000000100"
    "037430020000000100037433020000000100000001a20b397e65000001a20b397e590100080000000000000005"
)
COMPLETED = bytes.fromhex(
    "00010000000000000005000900004e200401000001a20b398ae2000001a20b397e590100080000000000000005"
)


def test_a_decision_names_its_producer_and_partitions() -> None:
    topics = ("t0", "t3", "t6", "t7", "t8", "t9", "t10")
    assert read_verdict(PREPARED) == TransactionOutcome(
        5, is_commit=True, partitions=frozenset(TopicPartition(topic, 1) for topic in topics)
    )


def test_the_first_format_is_read_too() -> None:
    value = bytes.fromhex("00000000000000000005000900004e200300000001000274300000000100000007")
    times = bytes(16)
    assert read_verdict(value + times) == TransactionOutcome(
        5, is_commit=False, partitions=frozenset({TopicPartition("t0", 7)})
    )


@pytest.mark.parametrize("value", [None, COMPLETED])
def test_what_decides_nothing_is_passed_over(value: bytes | None) -> None:
    assert read_verdict(value) is None


@pytest.mark.parametrize("value", [b"", b"\x00\x09" + bytes(40), PREPARED[:20], PREPARED[:60]])
def test_what_is_of_another_format_is_not_taken_for_no_decision(value: bytes) -> None:
    with pytest.raises(UnknownFormat):
        read_verdict(value)


@pytest.mark.parametrize(
    ("key", "told"),
    [(b"\x00\x00\x00\x05t-0-1", True), (b"\x00\x00\x00\x01t", False), (None, False)],
)
def test_a_record_is_of_the_id_in_its_key(key: bytes | None, told: bool) -> None:  # noqa: FBT001
    assert is_of(key, "t-0-1") is told


@pytest.mark.parametrize(
    ("transactional_id", "code"),
    [("", 0), ("a", 97), ("x-1-0", 112211647), ("polygenelubricants", 0)],
)
def test_an_id_is_kept_where_java_puts_its_hash(transactional_id: str, code: int) -> None:
    assert coordinator_partition(transactional_id, 1 << 31) == code
    assert coordinator_partition(transactional_id, 8) == code % 8


def test_an_id_is_kept_where_a_broker_was_seen_to_keep_it() -> None:
    assert coordinator_partition("x-1-0", 8) == 7
