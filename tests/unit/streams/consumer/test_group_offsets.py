"""Committed offsets are compared with what their logs have."""

from __future__ import annotations

from aiokafka import TopicPartition

from millstream.streams.consumer.group_offsets import gaps_between
from millstream.streams.consumer.offset_gaps import OffsetGap


def test_an_offset_within_its_log_or_at_either_end_is_no_gap() -> None:
    places = [TopicPartition("requests", number) for number in range(5)]
    committed = dict(zip(places, (4, 5, 9, 10, 11), strict=True))
    begins, ends = dict.fromkeys(places, 5), dict.fromkeys(places, 10)
    assert gaps_between(committed, begins, ends) == [
        OffsetGap("requests", 0, 4, 5),
        OffsetGap("requests", 4, 11, 5),
    ]
