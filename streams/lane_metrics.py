"""What a worker records about its lanes; what happened to requests is on the topics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streams.metrics import MetricsCollector


@dataclass(frozen=True, slots=True)
class LaneMetrics:
    """The lanes' own figures, declared once per worker."""

    duplicates: Any
    put_right: Any
    lanes_lost: Any
    lanes_open: Any
    records_held: Any
    runs_in_flight: Any

    @classmethod
    def declare(cls, collector: MetricsCollector) -> LaneMetrics:
        """Declare them on a collector."""
        return cls(
            duplicates=collector.counter(
                "millstream_lane_duplicates_total",
                "Requests passed over because one of the same id is finished or in flight.",
            ),
            put_right=collector.counter(
                "millstream_lane_put_right_total",
                "Requests that arrived under another key and were sent to their home partition.",
            ),
            lanes_lost=collector.counter(
                "millstream_lanes_lost_total",
                "Lanes dropped because they were fenced or a commit's outcome was unknown.",
            ),
            lanes_open=collector.gauge("millstream_lanes_open", "Lanes that serve."),
            records_held=collector.gauge(
                "millstream_lane_records_held",
                "Records between arrival and acknowledgement.",
            ),
            runs_in_flight=collector.gauge("millstream_runs_in_flight", "Agent runs under way."),
        )
