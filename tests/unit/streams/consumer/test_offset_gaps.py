"""What aiokafka does silently with a position that a log does not have is noted, and told once."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.consumer.subscription_state import Subscription, TopicPartitionState
from structlog.testing import capture_logs

from millstream.streams.consumer import offset_gaps
from millstream.streams.consumer.offset_gaps import (
    OffsetGap,
    begins_anywhere,
    begins_at,
    take_gaps,
    tell_gap,
    watch_resets,
)

PLACE = TopicPartition("requests", 0)


@pytest.fixture(autouse=True)
def _watched() -> Iterator[None]:
    watch_resets()
    yield
    TopicPartitionState.await_reset = offset_gaps._await_reset
    TopicPartitionState.reset_to = offset_gaps._reset_to
    TopicPartitionState.seek = offset_gaps._seek


@pytest.fixture
async def consumer() -> Any:
    """Give what a consumer knows of one partition that is assigned to it."""
    subscription = Subscription({"requests"})
    subscription._assign({PLACE})
    return SimpleNamespace(_subscription=SimpleNamespace(subscription=subscription))


def state_of(consumer: Any) -> Any:
    return consumer._subscription.subscription.assignment.state_value(PLACE)


@pytest.mark.parametrize(("begin", "lost_max"), [pytest.param(9, 4, id="lost"), (0, 0), (3, 0)])
async def test_a_reset_by_the_broker_is_a_gap(consumer: Any, begin: int, lost_max: int) -> None:
    state = state_of(consumer)
    state.seek(5)
    state.await_reset(OffsetResetStrategy.EARLIEST)
    state.reset_to(begin)
    (gap,) = take_gaps(consumer)
    assert gap == OffsetGap("requests", 0, 5, begin)
    assert (gap.lost_max, gap.is_set_back) == (lost_max, begin < 5)
    assert list(take_gaps(consumer)) == []


@pytest.mark.parametrize("begin", [0, 5, 9])
async def test_a_partition_without_a_committed_offset_was_read_up_to_nobody_knows_where(
    consumer: Any, begin: int
) -> None:
    state = state_of(consumer)
    state.seek(5)
    state.await_reset(OffsetResetStrategy.EARLIEST)
    begins_anywhere(state)
    state.reset_to(begin)
    (gap,) = take_gaps(consumer)
    assert gap == OffsetGap("requests", 0, None, begin)
    assert (gap.is_unknown, gap.is_set_back, gap.lost_max) == (True, False, 0)
    assert list(take_gaps(consumer)) == []


async def test_records_lost_behind_a_committed_offset_of_0_are_a_gap(consumer: Any) -> None:
    state = state_of(consumer)
    state.await_reset(OffsetResetStrategy.EARLIEST)
    begins_at(state, 0)
    state.reset_to(7)
    (gap,) = take_gaps(consumer)
    assert gap.lost_max == 7


async def test_a_seek_during_a_reset_is_no_gap(consumer: Any) -> None:
    state = state_of(consumer)
    state.seek(5)
    state.await_reset(OffsetResetStrategy.EARLIEST)
    state.seek(2)
    state.await_reset(OffsetResetStrategy.EARLIEST)
    state.reset_to(2)
    assert list(take_gaps(consumer)) == []


def test_each_kind_of_gap_is_one_line_that_says_what_to_do() -> None:
    with capture_logs() as lines:
        tell_gap(OffsetGap("requests", 3, 5, 9))
        tell_gap(OffsetGap("requests", 3, 1000, 0))
        tell_gap(OffsetGap("requests", 3, None, 7))
    lost, set_back, unknown = lines
    assert (lost["from_offset"], lost["to_offset"], lost["lost_max"]) == (5, 9, 4)
    assert (set_back["stood_at"], set_back["read_from"], set_back["partition"]) == (1000, 0, 3)
    assert "retention.ms" in lost["event"]
    assert "made anew or truncated" in set_back["event"]
    assert "offsets.retention.minutes" in unknown["event"]
    assert (unknown["read_from"], unknown["partition"]) == (7, 3)
    assert "stood_at" not in unknown
