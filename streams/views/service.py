"""The views of a worker: nine named Faust agents in one app, each with a table.

`tokens`, `costs`, `checkpoints`, `results`, `sessions`, `session_states`, `session_events`,
`decisions` and `dead_letters` count their topics. Those that tell of sessions also feed the session
view, but for their events. All that they hold is a fold of topics.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from faust.types import TP

from millstream.agents.sessions.manager import SessionStore
from millstream.middleware.pipeline import CHAIN
from millstream.schemas.base import partition_key
from millstream.schemas.ports import wall_clock_ms
from millstream.schemas.topics import COSTS, TopicSpec
from millstream.streams.broker.rights.needed import COUNTED
from millstream.streams.broker.topic_admin import ensure_changelogs
from millstream.streams.consumer.faust_app import assigned_partitions, build_app, stop_app
from millstream.streams.consumer.freshness import Freshness, told_stale
from millstream.streams.consumer.offset_gaps import OffsetGap
from millstream.streams.consumer.recent_gaps import RecentGaps
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.views.aggregates import Aggregate, merged
from millstream.streams.views.lag import ViewLags, told_behind
from millstream.streams.views.session_feed import SessionFeed, feeds_of
from millstream.streams.views.session_healing import Fed, Marks, SessionHealing
from millstream.streams.views.table_metrics import Shown
from millstream.streams.views.view import View
from millstream.streams.wire.partitioning import home_partition

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

__all__ = ["Views"]

_FLUSH_INTERVAL_S = 0.5
_CANCELLED_AGAIN_S = 0.2


class Views:
    """Serves the partitions of the views that the consumer group gives this worker.

    Their totals are collected from `collector`'s registry once they run. `known_models` are those
    that the deployment names itself: no flood of others takes their place. `gaps` names what was
    lost of late, `shown` what was collected last, also of views that stood here before. `marks` are
    what the session view says of itself: without them, nobody notices when it was emptied.
    """

    def __init__(
        self,
        settings: Settings,
        store: SessionStore,
        collector: MetricsCollector,
        *,
        known_models: Iterable[str] = (),
        gaps: RecentGaps | None = None,
        shown: Shown | None = None,
        marks: Marks | None = None,
    ) -> None:
        self._settings = settings
        self._known_models = frozenset(known_models)
        self._collector = collector
        self._gaps = gaps or RecentGaps()
        self.app = build_app(settings, "views")
        self._freshness = Freshness(self.app.answered)
        self.app.position_of = self._position_of
        self.app.on_gap = self._gap
        self.app.on_partitions_assigned.connect(self._assigned)
        foreign = collector.counter(
            "millstream_session_view_foreign_keys_total",
            "Records that the session view passed over: a key in Redis is of another type.",
        )
        self._lost_to_retention = collector.counter(
            "millstream_view_records_lost_to_retention_total",
            "Records, at most, that retention deleted before a view had counted them.",
            ("topic",),
        )
        self._logs_set_back = collector.counter(
            "millstream_view_logs_set_back_total",
            "Partitions whose log ended before where a view stood; each is counted on anew.",
            ("topic",),
        )
        lost = collector.counter(
            "millstream_session_view_losses_total",
            "Partitions of a topic of which the session view lost what it had: Redis was emptied.",
        )
        self._healing = SessionHealing(settings, self._fed, marks, on_lost=lost.inc)
        self._feeds: dict[str, SessionFeed[Any]] = {
            spec.name: SessionFeed(
                settings,
                settings.topic(spec.name),
                spec.event,
                put,
                on_foreign_key=foreign.inc,
                on_behind=self._healing.wake,
            )
            for spec, put in feeds_of(store)
        }
        views = [self._view(spec) for spec in COUNTED]
        self._views = {view.topic: view for view in views}
        self._behind = collector.gauge(
            "millstream_session_view_partitions_behind",
            "Partitions with records that the session view lacks: it did not answer, or lost them.",
        )
        self._shown = shown or Shown()
        self._lags = ViewLags()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def start(self) -> None:
        """Join the group and restore the tables; returns when the first assignment is served."""
        await ensure_changelogs(self._settings, [view.changelog for view in self._views.values()])
        # Faust reads nothing while a hundred writes are sent, one each time that the loop turns:
        # that takes seconds beside busy lanes. What waits here is bounded by `_flush_often`.
        self.app.producer.buffer.max_messages = sys.maxsize
        await self.app.start()
        self._shown.show(self._by_view, self._collector.registry, self._lags.all)
        self._tasks = (
            asyncio.create_task(self._flush_often(), name="views-flush"),
            asyncio.create_task(
                self._healing.heal(tuple(self._feeds.values())), name="sessions-heal"
            ),
            asyncio.create_task(self._healing.watch(), name="sessions-watch"),
        )
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def stop(self) -> bool:
        """Write what was counted and leave the group in time; tells whether the group knows."""
        tasks, self._tasks = self._tasks, ()
        for task in tasks:
            task.remove_done_callback(self._ended)
        # A client of Redis that connects just then may swallow a cancellation.
        pending = set(tasks)
        while pending:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=_CANCELLED_AGAIN_S)
        if tasks:
            self._flush()
        return await stop_app(self.app)

    @property
    def failure(self) -> BaseException | None:
        """What crashed a view; the worker then ends, and a new one restores from the topics."""
        return self.app.failure

    @property
    def cut_off(self) -> bool:
        """Whether no broker has answered for a while."""
        return bool(self._freshness.stale())

    def unready(self) -> list[str]:
        """Say why the views are not up to serving; empty: they are."""
        if self.failure is not None:
            return [f"the views failed: {self.failure!r}"]
        if not self._tasks:
            return ["the views are not started"]
        if self.app.rebalancing or self.app.in_recovery:
            return ["the views restore their tables"]
        stale = self._freshness.stale()
        if lacks := self.app.lacks(self._views):
            return [f"the views: {lacks}"]
        return [f"the views: {told_stale(stale)}"] if stale else []

    def behind(self) -> list[str]:
        """Say which views are behind by so much that somebody is to know; empty: none."""
        told = told_behind(self._lags.all(), wall_clock_ms())
        troubles = (feed.trouble for feed in self._feeds.values())
        if trouble := next(filter(None, troubles), None):
            told.append(f"the session view gets nothing: {trouble}")
        return told

    def totals(self, topic: str) -> Aggregate:
        """Add up what is counted of a catalogue topic over this worker's partitions."""
        view = self._views[self._settings.topic(topic)]
        return merged(aggregate for _, aggregate in view.aggregates())

    def spend(self, tenant: str, user_id: str) -> Aggregate | None:
        """Give a user's runs, cost and tokens; `None` if none are known to this worker."""
        key = partition_key(tenant, user_id)
        home = home_partition(key, self._settings.partitions)
        return self._views[self._settings.topic(COSTS.name)].of_user(home, tenant, user_id)

    def _view(self, spec: TopicSpec) -> View:
        last_stage = (CHAIN, *self._settings.chain_cuts)[-1]
        feed = self._feeds.get(spec.name)
        return View(
            self.app,
            self._settings,
            spec,
            last_stage=last_stage,
            feed=feed,
            known_models=self._known_models,
        )

    def _by_view(self) -> list[tuple[str, int, Aggregate]] | None:
        # What is being restored rises from an old value: it is shown once it stands.
        if self.unready():
            return None
        return [
            (view.name, number, aggregate)
            for view in self._views.values()
            for number, aggregate in view.aggregates()
        ]

    def _position_of(self, tp: TP) -> int | None:
        view = self._views.get(tp.topic)
        return view.position(tp.partition) if view is not None else None

    def _gap(self, gap: OffsetGap) -> None:
        """Tell of records that are not counted, and count a log that was set back."""
        self._gaps.tell(gap)
        topic = gap.topic.removeprefix(self._settings.topic(""))
        if not gap.is_set_back:
            self._lost_to_retention.labels(topic=topic).inc(gap.lost_max)
            return
        self._logs_set_back.labels(topic=topic).inc()
        if (view := self._views.get(gap.topic)) is not None:
            view.set_back(gap.partition, gap.read_from)

    async def _assigned(self, _app: Any, assigned: set[TP], **_: Any) -> None:
        for name, feed in self._feeds.items():
            topic = self._settings.topic(name)
            feed.keep(tp.partition for tp in assigned if tp.topic == topic)

    def _fed(self) -> Iterator[Fed]:
        """Give what the session view is fed with here, once it is known how far each is counted."""
        if self.unready():
            return
        for name, feed in self._feeds.items():
            view = self._views[self._settings.topic(name)]
            for partition in assigned_partitions(self.app, view.topic):
                yield Fed(name, partition, feed, view.position(partition))

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_INTERVAL_S)
            # What was written before is sent first: meanwhile counts come together in memory.
            if not self.app.producer.buffer.size:
                self._flush()
            self._note_lags()

    def _flush(self) -> None:
        self._behind.set(sum(feed.partitions_behind for feed in self._feeds.values()))
        for view in self._views.values():
            view.flush()

    def _note_lags(self) -> None:
        if self.unready():
            self._lags.forget()
            return
        ends = self.app.consumer.log_ends()
        self._lags.note(
            ((view.name, number), view.stand(number), ends.get(TP(view.topic, number)))
            for view in self._views.values()
            for number in assigned_partitions(self.app, view.topic)
        )

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.app.fail(error)
