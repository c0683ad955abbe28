"""A worker's side: every template that is applied, read before it serves and followed then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from aiokafka.errors import KafkaError
from prometheus_client import Counter, Gauge

from millstream.agents.factory import AgentFactory
from millstream.schemas.control.templates import TemplateApplied
from millstream.schemas.errors import LaneLost, Misconfigured, ServiceUnavailable, UnknownTemplate
from millstream.streams.broker.partition_reader import Consumer, PartitionReader
from millstream.streams.lane.base.group_templates import GroupTemplates
from millstream.streams.lane.io import KafkaLaneIO, LaneIO
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.telemetry.outages import KAFKA
from millstream.streams.templates.records import (
    read_applied,
    read_topic,
    template_of,
    templates_at,
)

__all__ = ["TemplateFollower"]

log = structlog.get_logger(__name__)

_AGAIN_AFTER_S = 5.0


class TemplateFollower:
    """Registers what is applied, as far as this worker's tools allow.

    What it cannot run is told in the log once, counted, and left to workers that can; `group` keeps
    why, for those whose requests wait for it in vain. An app's own version stands against an
    applied one of other content.
    """

    def __init__(
        self,
        settings: Settings,
        factory: AgentFactory,
        collector: MetricsCollector,
        *,
        group: GroupTemplates | None = None,
        io: LaneIO | None = None,
    ) -> None:
        self._factory = factory
        self._group = group or GroupTemplates()
        self._where = templates_at(settings)
        self._io = io or KafkaLaneIO(settings)
        self._read_to = 0
        self._told: dict[tuple[str, str], tuple[str, bool]] = {}
        self.lacking: set[tuple[str, str]] = set()
        self._task: asyncio.Task[None] | None = None
        self._taken: Counter = collector.counter(
            "millstream_templates_taken_total",
            "Records of templates that this worker took in: applied, or retired.",
        )
        gauge: Gauge = collector.gauge(
            "millstream_templates_lacking",
            "Applied templates that this worker cannot run: it lacks a tool, or cannot read them.",
        )
        gauge.set_function(lambda: len(self.lacking))

    async def start(self) -> None:
        """Take in all that is applied, then follow. Raises `ServiceUnavailable`."""
        reader = self._io.reader()
        await reader.start()
        try:
            await self._take_in_all(reader)
        finally:
            await reader.stop()
        self._task = asyncio.create_task(self._follow(), name="templates")

    async def stop(self) -> None:
        """Follow no more; what was taken in stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def failure(self) -> BaseException | None:
        """What ended it, `None` while it follows."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    async def _take_in_all(self, reader: PartitionReader) -> None:
        try:
            found, self._read_to = await read_topic(reader, self._where)
        except LaneLost as error:
            raise ServiceUnavailable(f"the templates cannot be read: {error}") from error
        for one in found.values():
            self._take_in(one.event)

    async def _follow(self) -> None:
        while True:
            consumer: Consumer = self._io.consumer()
            try:
                await consumer.start()
                consumer.assign([self._where])
                consumer.seek(self._where, self._read_to)
                async for record in consumer:
                    if (event := read_applied(record)) is not None:
                        self._take_in(event)
                    self._read_to = record.offset + 1
            except KafkaError as error:
                # What it has serves on; what is applied meanwhile is taken in then.
                log.warning("templates cannot be followed", reason=repr(error), outage=KAFKA)
            finally:
                await consumer.stop()
            await asyncio.sleep(_AGAIN_AFTER_S)

    def _take_in(self, event: TemplateApplied) -> None:
        key = (event.name, event.version)
        state = (event.digest, event.retired)
        is_news = self._told.get(key) != state
        self._told[key] = state
        self._taken.inc()
        name, version, by = event.name, event.version, event.by
        try:
            template = template_of(event)
            register: Callable[..., None] = (
                self._factory.keep if event.retired else self._factory.register
            )
            register(template)
        except (Misconfigured, UnknownTemplate) as error:
            self.lacking.add(key)
            if event.retired and self._factory.has(name, version):
                self._factory.retire(name, version)
            self._group.cannot_run(name, version, str(error), offered=not event.retired)
            if is_news:
                log.warning(
                    "template cannot be run here", name=name, version=version, reason=str(error)
                )
            return
        self.lacking.discard(key)
        self._group.can_run(name, version)
        if is_news:
            done = "template retired" if event.retired else "template learned"
            log.info(done, name=name, version=version, by=by)
