"""What of the topics is to be replayed."""

from __future__ import annotations

from dataclasses import dataclass

from millstream.schemas.base import Address
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import (
    ATTEMPTS,
    CHECKPOINTS,
    CONTROL,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    OBEYED,
    PARKED,
    REQUESTS,
    RESULTS,
    RUN_MIGRATION_ANSWERS,
    SESSION_EVENTS,
    STEPS,
    TOKENS,
    TopicSpec,
)
from millstream.streams.bus.api import EVERYTHING, Delivery, EventFilter
from millstream.streams.bus.record_log import Entry
from millstream.streams.wire.partitioning import home_partition

__all__ = ["HISTORY_TOPICS", "HistoryQuery", "asked_for", "moved_from"]

HISTORY_TOPICS = (
    *(REQUESTS, CONTROL, OBEYED, RUN_MIGRATION_ANSWERS, DECISIONS, ATTEMPTS, STEPS, TOKENS),
    *(PARKED, COSTS, CHECKPOINTS, RESULTS, SESSION_EVENTS, DEAD_LETTERS),
)
"""What is replayed unless said otherwise; records of one millisecond come in this order.

Of what is parked then only what waits for a template or tools.
"""


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """What to replay. All that is given must hold; what is left out does not limit.

    Times are the broker's, in milliseconds, `since_ms` included and `until_ms` not. Offsets
    (`offset_from` included, `offset_until` not) hold in each partition that is read, or in
    `partition` alone. With `limit` it is the newest so many of what would be replayed without.
    """

    topics: tuple[TopicSpec, ...] = HISTORY_TOPICS
    wanted: EventFilter = EVERYTHING
    since_ms: int | None = None
    until_ms: int | None = None
    partition: int | None = None
    offset_from: int | None = None
    offset_until: int | None = None
    limit: int | None = None

    @property
    def takes_all(self) -> bool:
        """Whether every record between the offsets is asked for, but for those merely parked."""
        return self.wanted == EVERYTHING and self.since_ms is None and self.until_ms is None


def asked_for(entry: Entry, query: HistoryQuery) -> bool:
    """Tell whether a record that was read is asked for."""
    # The offsets found by time bound it only while the broker's clock never went back.
    since_ms, until_ms = query.since_ms, query.until_ms
    if since_ms is not None and entry.at_ms < since_ms:
        return False
    if until_ms is not None and entry.at_ms >= until_ms:
        return False
    wanted = query.wanted
    if isinstance(entry, Delivery):
        event = entry.event
        # That a request is parked, and waits for no template, is told only if it is asked for.
        if type(event) is RunParked and event.waits_for is None and query.topics == HISTORY_TOPICS:
            return False
        return wanted is EVERYTHING or wanted.matches(event)
    return wanted.matches_unreadable(entry)


def moved_from(entry: Entry, partitions: int) -> Address | None:
    """Give where a request or command first stood that may stand twice: where it came, and at home.

    `None` for all others: they stand once.
    """
    if not isinstance(entry, Delivery):
        return None
    if not isinstance(entry.event, ResolvedRequest | ControlCommand):
        return None
    source = entry.came_as or entry.address
    home = home_partition(entry.event.partition_key, partitions)
    return None if source == entry.address and entry.address.partition == home else source
