"""What aiokafka notes of the partitions that it fetches: a look, no question to a broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from faust.types import TP

__all__ = ["LogEnd", "answered_by", "log_ends_of"]


@dataclass(frozen=True, slots=True)
class LogEnd:
    """A partition as its leader described it last, at `at_ms` by this machine's clock.

    `end` is its high watermark: the offset of the record that comes next. `position` is the offset
    from which the consumer fetches on, behind markers and aborted records. `handed` is the offset
    of the last record that was handed to an agent, -1: none was yet.
    """

    position: int
    handed: int
    end: int
    at_ms: int

    def stand(self, counted: int) -> int:
        """Give from where on an agent that counted up to and with this offset lacks records."""
        return max(counted + 1, self.position) if counted >= self.handed else counted + 1


def answered_by(consumer: Any) -> dict[TP, int | None]:
    """Give when a broker last answered for each partition that is fetched now, in ms."""
    states = dict(_states(consumer))
    fetched = consumer._fetcher._records if states else {}  # noqa: SLF001  it has no public way
    return {
        TP(*tp): state.timestamp
        for tp, state in states.items()
        if not state.paused and tp not in fetched
    }


def log_ends_of(consumer: Any, handed: Mapping[TP, int]) -> dict[TP, LogEnd]:
    """Give where the log of each partition ends for which a broker has answered."""
    return {
        TP(*tp): LogEnd(
            state.position, handed.get(TP(*tp), -1), state.highwater, state.timestamp or 0
        )
        for tp, state in _states(consumer)
        if state.has_valid_position and state.highwater is not None
    }


def _states(consumer: Any) -> Iterator[tuple[Any, Any]]:
    subscription = None if consumer is None else consumer._subscription.subscription  # noqa: SLF001
    if subscription is not None and subscription.assignment is not None:
        assignment = subscription.assignment
        yield from ((tp, assignment.state_value(tp)) for tp in assignment.tps)
