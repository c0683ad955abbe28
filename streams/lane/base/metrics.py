"""What a worker records about its lanes; what happened to requests is on the topics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from prometheus_client import Counter, Gauge

from millstream.schemas.sessions.states import LifecycleState
from millstream.streams.telemetry.metrics import MetricsCollector

SESSION_GAUGES: Final[tuple[LifecycleState, ...]] = ("open", "closed", "expired")


@dataclass(frozen=True, slots=True)
class Figures:
    """Lanes that serve, records held, requests that wait, lanes lost since the start.

    Requests wait parked, or deferred: left where they stand. Of those that are parked, some lack
    their template here, of which `versions_lacking` were taken on, and wait without an end.
    Sessions are those of the log, by what they are.
    """

    open: int
    held: int
    waiting: int
    deferred: int
    lost: int
    lacking: int = 0
    versions_lacking: int = 0
    sessions: Mapping[LifecycleState | None, int] = field(default_factory=dict)


class LaneFigures(Protocol):
    """Whatever has lanes."""

    def figures(self) -> Figures:
        """Count them."""
        ...


@dataclass(frozen=True, slots=True)
class LaneMetrics:
    """The lanes' own figures, declared once per worker."""

    duplicates: Counter
    put_right: Counter
    dedup_window: Gauge
    lanes_lost: Counter
    lanes_open: Gauge
    records_held: Gauge
    requests_waiting: Gauge
    requests_deferred: Gauge
    requests_lacking: Gauge
    versions_lacking: Gauge
    sessions: Gauge
    deferred_lost: Counter
    checkpoints_altered: Counter
    runs_recalled: Counter
    history_gone: Counter
    lost_to_retention: Counter
    logs_set_back: Counter
    offsets_gone: Counter
    runs_in_flight: Gauge
    fallbacks: Counter
    models_out: Gauge

    def watch(self, lanes: Iterable[LaneFigures]) -> None:
        """Read the lanes' figures at each scrape."""
        watched = tuple(lanes)
        self.lanes_open.set_function(lambda: sum(one.figures().open for one in watched))
        self.records_held.set_function(lambda: sum(one.figures().held for one in watched))
        self.requests_waiting.set_function(lambda: sum(one.figures().waiting for one in watched))
        self.requests_deferred.set_function(lambda: sum(one.figures().deferred for one in watched))
        self.requests_lacking.set_function(lambda: sum(one.figures().lacking for one in watched))
        self.versions_lacking.set_function(
            lambda: sum(one.figures().versions_lacking for one in watched)
        )
        for state in SESSION_GAUGES:
            self.sessions.labels(state=state).set_function(partial(_sessions_in, watched, state))

    def tell_circuit(self, model: str, is_open: bool) -> None:  # noqa: FBT001  a callback's
        """Take in that a model is passed over, or no longer."""
        self.models_out.labels(model=model).set(is_open)

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
            dedup_window=collector.gauge(
                "millstream_lane_dedup_window_seconds",
                "How far back ids are remembered, where their number cuts the window short.",
                ("stage", "partition"),
            ),
            lanes_lost=collector.counter(
                "millstream_lanes_lost_total",
                "Lanes dropped since the start: fenced, or a commit's outcome was unknown.",
            ),
            lanes_open=collector.gauge("millstream_lanes_open", "Lanes that serve."),
            records_held=collector.gauge(
                "millstream_lane_records_held",
                "Records between arrival and acknowledgement.",
            ),
            requests_waiting=collector.gauge(
                "millstream_lane_requests_waiting",
                "Requests that are parked on the log until there is room, or they may go on.",
            ),
            requests_deferred=collector.gauge(
                "millstream_lane_requests_deferred",
                "Requests left where they stand, since so many of their user's wait already.",
            ),
            requests_lacking=collector.gauge(
                "millstream_lane_requests_lacking_template",
                "Parked requests that wait for a worker that has their template.",
            ),
            versions_lacking=collector.gauge(
                "millstream_lane_runs_lacking_version",
                "Runs taken on that wait for a worker with the version or tools they began with.",
            ),
            sessions=collector.gauge(
                "millstream_sessions",
                "Sessions of the lanes that serve, by what they are; deleted ones are gone.",
                ("state",),
            ),
            deferred_lost=collector.counter(
                "millstream_lane_deferred_lost_total",
                "Deferred requests that their topic's retention deleted before their turn came.",
            ),
            checkpoints_altered=collector.counter(
                "millstream_checkpoints_altered_total",
                "Checkpoints that were not in Redis as they were committed: the log's were taken.",
            ),
            runs_recalled=collector.counter(
                "millstream_runs_recalled_total",
                "Runs that went on by their journal: read, or with steps that cannot be read.",
                ("outcome",),
            ),
            history_gone=collector.counter(
                "millstream_lane_history_gone_total",
                "Logs of which records that a restore may have needed had been removed.",
            ),
            lost_to_retention=collector.counter(
                "millstream_requests_lost_to_retention_total",
                "Records, at most, that retention deleted before a lane had read them.",
                ("topic",),
            ),
            logs_set_back=collector.counter(
                "millstream_lane_logs_set_back_total",
                "Partitions whose log ended before where the group stood; each is read anew.",
                ("topic",),
            ),
            offsets_gone=collector.counter(
                "millstream_lane_offsets_gone_total",
                "Partitions that a lane has worked on, of which the group has nothing committed.",
                ("topic",),
            ),
            runs_in_flight=collector.gauge("millstream_runs_in_flight", "Agent runs under way."),
            fallbacks=collector.counter(
                "millstream_model_fallbacks_total",
                "Attempts that went to the next model of a template, since the one before failed.",
            ),
            models_out=collector.gauge(
                "millstream_model_circuit_open",
                "1 for a model that is passed over since it failed, 0 once it answers again.",
                ("model",),
            ),
        )


def _sessions_in(lanes: Iterable[LaneFigures], state: LifecycleState) -> int:
    return sum(one.figures().sessions.get(state, 0) for one in lanes)
