"""Partitions that could not be read on where their reader stood: told, with from where to where.

A position before a log's beginning means that retention took what was unread; one beyond its end
that the topic was made anew, its log was truncated, or somebody set the group's offsets. aiokafka
goes to the log's beginning in both cases, and only a debug line tells. Here each is a `OffsetGap`.
So is a partition of which nothing is committed: its group is new there, or its offsets were deleted
or have expired. Which of the two, only what the reader itself has kept can say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from aiokafka.consumer.subscription_state import TopicPartitionState

__all__ = [
    "OffsetGap",
    "begins_anywhere",
    "begins_at",
    "take_gaps",
    "tell_gap",
    "watch_resets",
]

log = structlog.get_logger(__name__)

_left: WeakKeyDictionary[TopicPartitionState, int | None] = WeakKeyDictionary()
_found: WeakKeyDictionary[TopicPartitionState, tuple[int | None, int]] = WeakKeyDictionary()

_await_reset = TopicPartitionState.await_reset
_reset_to = TopicPartitionState.reset_to
_seek = TopicPartitionState.seek


@dataclass(frozen=True, slots=True)
class OffsetGap:
    """A reader of a partition stood at `stood_at`, and could read on only from `read_from`.

    `stood_at` is `None` where nothing is committed that says where it stood, if anywhere.
    """

    topic: str
    partition: int
    stood_at: int | None
    read_from: int

    @property
    def lost_max(self) -> int:
        """The most records that were lost unread; markers of transactions count among them."""
        return 0 if self.stood_at is None else max(0, self.read_from - self.stood_at)

    @property
    def is_set_back(self) -> bool:
        """Whether the log ended before where the reader stood, so that it is read anew."""
        return self.stood_at is not None and self.read_from < self.stood_at

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is committed that says where the reader stood."""
        return self.stood_at is None


def watch_resets() -> None:
    """Have every aiokafka consumer of this process note gaps; may be called again."""
    TopicPartitionState.await_reset = _noting_await_reset
    TopicPartitionState.reset_to = _noting_reset_to
    TopicPartitionState.seek = _noting_seek


def _noting_await_reset(state: Any, strategy: int) -> None:
    if state.has_valid_position:
        _left[state] = state.position
    _await_reset(state, strategy)


def _noting_reset_to(state: Any, position: int) -> None:
    _reset_to(state, position)
    stood_at = _left.pop(state, position)
    if stood_at != position:
        _found[state] = (stood_at, position)


def _noting_seek(state: Any, position: int) -> None:
    _seek(state, position)
    _left.pop(state, None)


def begins_at(state: Any, offset: int) -> None:
    """Say that a partition that is being reset is to be read from `offset`, if that is there."""
    _left[state] = offset


def begins_anywhere(state: Any) -> None:
    """Say that nothing is committed of a partition that is being reset."""
    _left[state] = None


def take_gaps(consumer: Any) -> Iterator[OffsetGap]:
    """Give the gaps of an aiokafka consumer that were found since it was asked last."""
    if not _found:
        return
    subscription = consumer._subscription.subscription  # noqa: SLF001  it has no public way
    if subscription is None or subscription.assignment is None:
        return
    for tp in subscription.assignment.tps:
        found = _found.pop(subscription.assignment.state_value(tp), None)
        if found is not None:
            yield OffsetGap(tp.topic, tp.partition, *found)


def tell_gap(gap: OffsetGap) -> None:
    """Say in one line of the log what became of a partition's records."""
    where = {"topic": gap.topic, "partition": gap.partition}
    if gap.is_unknown:
        log.error(
            "nothing is committed for a partition that was read before: it is read from its "
            "beginning; the group or its offsets were deleted, or have expired, as after "
            "offsets.retention.minutes without a worker",
            **where,
            read_from=gap.read_from,
        )
    elif gap.is_set_back:
        log.error(
            "the log ends before where this group stood: it is read from its beginning; the topic "
            "was made anew or truncated, or the group's offsets were altered",
            **where,
            stood_at=gap.stood_at,
            read_from=gap.read_from,
        )
    else:
        log.error(
            "records were deleted by retention before they were read; raise the topic's "
            "retention.ms, or add workers",
            **where,
            from_offset=gap.stood_at,
            to_offset=gap.read_from,
            lost_max=gap.lost_max,
        )
