"""How far views are behind their topics: in records, and in time.

Brokers say with each fetch where a partition's log ends. So a view's lag is known without asking
them, as `records-lag` of Kafka's own consumers is; and when a minute is counted as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from millstream.streams.consumer.log_ends import LogEnd
from millstream.streams.views.aggregates import Stand

__all__ = ["BEHIND_S", "Lag", "ViewLags", "told_behind"]

BEHIND_S = 10.0
"""So far behind, somebody is to know: half a second is as it should be."""

CLOCKS_APART_MS = 1_000
"""Brokers' clocks are held to be no further apart from this machine's."""

Place = tuple[str, int]
"""A view's name and a partition."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a view is behind on a partition.

    `records` is how many offsets lie between what is counted and the log's end, those of markers
    and of transactions that are still open among them. All that arrived before `counted_to_ms`, by
    the broker's clock, is counted; 0: that is not known yet.
    """

    records: int
    counted_to_ms: int
    _answered_ms: int

    def behind_s(self, now_ms: int) -> float | None:
        """Give since when records lack, in seconds, 0 where none do; `None`: not known yet."""
        if not self.records:
            return 0.0
        return max(0, now_ms - self.counted_to_ms) / 1000 if self.counted_to_ms else None


class ViewLags:
    """Notes how far each view is behind; a partition that is not noted again is forgotten."""

    def __init__(self) -> None:
        self._lags: dict[Place, Lag] = {}

    def note(self, read: Iterable[tuple[Place, Stand, LogEnd | None]]) -> None:
        """Take in what is counted of each partition that is read here, and where its log ends."""
        self._lags = {
            place: _lag(counted, log, self._lags.get(place))
            for place, counted, log in read
            if log is not None
        }

    def forget(self) -> None:
        """Forget all: which partitions are read here, or how far, is not known now."""
        self._lags = {}

    def all(self) -> Mapping[Place, Lag]:
        """Give what was noted last."""
        return self._lags


def _lag(counted: Stand, log: LogEnd, before: Lag | None) -> Lag:
    records = max(0, log.end - log.stand(counted.offset))
    counted_to_ms = max(counted.newest_ms, 0, before.counted_to_ms if before else 0)
    if before is None:
        return Lag(records, counted_to_ms, log.at_ms)
    if log.at_ms == before._answered_ms:  # noqa: SLF001  its own kind
        return replace(before, records=records, counted_to_ms=counted_to_ms)
    if not records:
        # This answer may have been on its way for long. It was asked for behind the last one.
        counted_to_ms = max(counted_to_ms, before._answered_ms - CLOCKS_APART_MS)  # noqa: SLF001
    return Lag(records, counted_to_ms, log.at_ms)


def told_behind(lags: Mapping[Place, Lag], now_ms: int) -> list[str]:
    """Give a sentence for the views that are more than `BEHIND_S` behind; empty: none are."""
    records: dict[str, int] = {}
    since_s: dict[str, float] = {}
    for (view, _), lag in lags.items():
        behind_s = lag.behind_s(now_ms)
        if behind_s is None or behind_s > BEHIND_S:
            records[view] = records.get(view, 0) + lag.records
            since_s[view] = max(since_s.get(view, 0.0), behind_s or 0.0)
    if not records:
        return []
    named = [
        f"{view} by {count} records" + _since(since_s[view]) for view, count in records.items()
    ]
    return [f"views are behind their topics, so metrics of topics are: {', '.join(named)}"]


def _since(since_s: float) -> str:
    return f" and {since_s:.0f} s" if since_s else ""
