"""How long brokers have not answered for partitions that are read: a look, no question to a broker.

A fetch is answered within 0.1 s, also where nothing has come. So a partition whose fetches go
without an answer for seconds is not served here, whatever the group says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faust.types import TP

__all__ = ["STALE_S", "Freshness", "told_commits", "told_stale"]

STALE_S = 5.0
"""So long without an answer, and a partition is not read any more."""


_TOPICS_TOLD_MAX = 3
"""Where no broker answers at all, all topics are stale: a few names say it."""


class Freshness:
    """Notes when each partition's last answer changed.

    `answered` gives a stamp of each partition that is fetched now, `None` where no answer has come;
    those that need no fetch are not in it.
    """

    def __init__(
        self,
        answered: Callable[[], Mapping[TP, int | None]],
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answered = answered
        self._clock_s = clock_s
        self._seen: dict[TP, tuple[int | None, float]] = {}

    def stale(self) -> dict[TP, float]:
        """Give the partitions without an answer for `STALE_S`, and for how many seconds."""
        now_s = self._clock_s()
        known, self._seen = self._seen, {}
        for tp, stamp in self._answered().items():
            before = known.get(tp)
            self._seen[tp] = before if before and before[0] == stamp else (stamp, now_s)
        ages_s = {tp: now_s - at_s for tp, (_, at_s) in self._seen.items()}
        return {tp: age_s for tp, age_s in ages_s.items() if age_s >= STALE_S}


def told_stale(stale: Mapping[TP, float]) -> str:
    """Say it for people: `requests 0, 1`, and since when."""
    topics: dict[str, list[int]] = {}
    for tp in sorted(stale):
        topics.setdefault(tp.topic, []).append(tp.partition)
    named = [f"{topic} {', '.join(map(str, of))}" for topic, of in topics.items()]
    told = "; ".join(named[:_TOPICS_TOLD_MAX])
    if (more := len(named) - _TOPICS_TOLD_MAX) > 0:
        told += f"; and of {more} more topics"
    return f"no broker has answered for {max(stale.values()):.0f} s for partitions of {told}"


def told_commits(under_way_s: Mapping[int, float]) -> str | None:
    """Say for which partitions a commit has not been answered for `STALE_S`, `None` if for none."""
    late = sorted(number for number, for_s in under_way_s.items() if for_s >= STALE_S)
    if not late:
        return None
    longest_s = max(under_way_s.values())
    return f"no commit has ended for {longest_s:.0f} s on partitions {', '.join(map(str, late))}"
