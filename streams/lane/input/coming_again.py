"""Requests that come again, since nobody knows any more how far their log was read.

A log may be read from its beginning though a lane has served most of it: it was set back, or what
the group had committed is gone. Ids are remembered for a while only. What is older is told by the
lane's own record of where it stood: the time up to which it has decided.
"""

from __future__ import annotations

from millstream.schemas.events import ResolvedRequest
from millstream.streams.consumer.offset_gaps import OffsetGap
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.wire.keys import RequestKey, request_key
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import InputRecord

__all__ = ["ComingAgain"]


class ComingAgain:
    """Tells of requests that may come again whether the lane is through with them."""

    def __init__(self, context: LaneContext, state: LaneState) -> None:
        self._context = context
        self._services = context.services
        self._window_ms = context.settings.dedup_window_s * 1000
        self._state = state

    def was_taken_long_ago(
        self, entry: Entry[InputRecord], request: ResolvedRequest | None
    ) -> bool:
        """Tell of a record that is read again whether it is older than ids are remembered.

        `request` is what it asks, `None` if it cannot be read. Call it once for each, and before
        it is decided on: what is decided on from here on says nothing of those before it.
        """
        entry.again = False
        at_ms = entry.record.timestamp
        if at_ms > self._state.decided_until_ms:
            entry.window.comes_no_more()
            return False
        key = self._key_of(request)
        if entry.window.reads_anew and key is not None:
            self._look_at_first(entry, key, at_ms)
        if at_ms == self._state.decided_until_ms:
            entry.window.comes_no_more()
        return self._is_forgotten(key, at_ms)

    def _key_of(self, request: ResolvedRequest | None) -> RequestKey | None:
        """Give the key of a request that is decided on here."""
        if request is None:
            return None
        home = home_partition(request.partition_key, self._context.settings.partitions)
        return request_key(request) if home == self._context.partition else None

    def _is_forgotten(self, key: RequestKey | None, at_ms: int) -> bool:
        """Tell whether a record is older than ids are remembered, and no request that is open."""
        # Requests are decided on in their order, so what is older and not open was ended.
        up_to_ms = self._state.decided_up_to_ms(self._services.clock_ms())
        is_open = key in self._state.parked or key in self._state.decided
        return not is_open and at_ms < up_to_ms - self._window_ms

    def _look_at_first(self, entry: Entry[InputRecord], key: RequestKey, at_ms: int) -> None:
        """Tell that the group's offsets are gone, if what comes first was acknowledged once."""
        entry.window.reads_anew = False
        # Acknowledged is what has ended or is parked. An owner that was killed during its very
        # first requests has committed no offset either.
        is_done = key in self._state.parked or self._state.is_finished(key)
        if is_done or self._is_forgotten(key, at_ms):
            self._tell(entry)

    def _tell(self, entry: Entry[InputRecord]) -> None:
        record = entry.record
        topic = self._context.stage.input.name
        self._services.metrics.offsets_gone.labels(topic=topic).inc()
        gap = OffsetGap(record.topic, record.partition, stood_at=None, read_from=record.offset)
        self._services.gaps.tell(gap)
