"""What gaps a worker found of late: each is a line of the log, and stands beside ready for a while.

A gap is over as soon as it is found: the worker reads on, so it is ready. Whoever looks at it a
minute later is to see all the same that records are missing, or come again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from millstream.streams.consumer.offset_gaps import OffsetGap, tell_gap

__all__ = ["KEPT_S", "RecentGaps"]

KEPT_S = 600.0
"""So long a gap is named beside ready."""


class RecentGaps:
    """The gaps that the lanes and views of one worker found in the last ten minutes.

    It outlives them: an outage in which records were lost may have ended lanes or views, too.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._found: dict[tuple[str, int], tuple[float, OffsetGap]] = {}

    def tell(self, gap: OffsetGap) -> None:
        """Log a gap, and name it for `KEPT_S`; a newer one of its partition takes its place."""
        tell_gap(gap)
        self._found[gap.topic, gap.partition] = (self._clock_s(), gap)

    def told(self) -> list[str]:
        """Give a sentence for each topic and kind of gap, with its partitions; empty: none."""
        if not self._found:
            return []
        now_s = self._clock_s()
        self._found = {
            place: found for place, found in self._found.items() if now_s - found[0] < KEPT_S
        }
        kinds: dict[tuple[str, bool, bool], list[OffsetGap]] = {}
        for place in sorted(self._found):
            gap = self._found[place][1]
            kinds.setdefault((gap.topic, gap.is_set_back, gap.is_unknown), []).append(gap)
        return [_told(topic, gaps) for (topic, *_), gaps in kinds.items()]


def _told(topic: str, gaps: list[OffsetGap]) -> str:
    where = f"{topic}, partitions {', '.join(str(gap.partition) for gap in gaps)}"
    if gaps[0].is_unknown:
        return f"{where}: the group's committed offsets are gone, and the log is read anew"
    if gaps[0].is_set_back:
        return f"{where}: the log ended before where this group stood, and is read anew"
    lost_max = sum(gap.lost_max for gap in gaps)
    return f"{where}: retention deleted records before they were read, {lost_max} at most"
