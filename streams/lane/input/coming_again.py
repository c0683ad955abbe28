"""Requests that come again, since nobody knows any more how far their log was read.

A log may be read from its beginning though a lane has served most of it: it was set back, or what
the group had committed is gone. Ids are remembered for a while only. What is older is told by the
lane's own record of where it stood: the time up to which it has decided.
"""

from __future__ import annotations

from millstream.streams.consumer.offset_gaps import OffsetGap
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.wire.keys import RequestKey
from millstream.streams.wire.records import InputRecord

__all__ = ["ComingAgain"]


class ComingAgain:
    """Tells of requests that may come again whether the lane is through with them."""

    def __init__(self, context: LaneContext, state: LaneState) -> None:
        self._context = context
        self._services = context.services
        self._window_ms = context.settings.dedup_window_s * 1000
        self._state = state

    def was_decided_long_ago(self, entry: Entry[InputRecord], key: RequestKey) -> bool:
        """Tell of a request that is read again whether its id is forgotten by now.

        Call it once for each, and before it is decided on: what is decided on from here on says
        nothing of those before it.
        """
        entry.again = False
        at_ms = entry.record.timestamp
        if at_ms > self._state.decided_until_ms:
            entry.window.comes_no_more()
            return False
        is_parked = key in self._state.parked
        # Requests are decided on in their order, so what is older and not at hand was ended.
        up_to_ms = self._state.decided_up_to_ms(self._services.clock_ms())
        is_open = is_parked or key in self._state.decided
        is_forgotten = not is_open and at_ms < up_to_ms - self._window_ms
        if entry.window.reads_anew:
            entry.window.reads_anew = False
            # Acknowledged is what has ended or is parked. An owner that was killed during its very
            # first requests has committed no offset either.
            if is_forgotten or is_parked or self._state.is_finished(key):
                self._tell(entry)
        return is_forgotten

    def _tell(self, entry: Entry[InputRecord]) -> None:
        record = entry.record
        topic = self._context.stage.input.name
        self._services.metrics.offsets_gone.labels(topic=topic).inc()
        gap = OffsetGap(record.topic, record.partition, stood_at=None, read_from=record.offset)
        self._services.gaps.tell(gap)
