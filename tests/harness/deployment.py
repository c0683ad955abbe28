"""One lane after the other over a broker in memory, by a clock that a test moves on."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from aiokafka import TopicPartition

from millstream.middleware.pipeline import MakeLayer
from millstream.middleware.policy import Policy
from millstream.schemas.topics import BASE_TOPICS, RESULTS, SNAPSHOTS, TopicSpec
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.broker.memory.partition import StoredRecord
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.checkpoint_cache import CheckpointCache
from millstream.streams.lane.base.metrics import LaneMetrics
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.restore import Restored
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.transactions.committer import Committer
from tests.harness.lane_common import chain_stages, no_redis
from tests.harness.writing_lane import (
    PARTITION,
    POLICY,
    Clock,
    MakeFolds,
    WritingLane,
    restored_state,
    writing_lane,
)

IDS_MAX = 1000


class Deployment:
    """One lane after the other over partition 0 in memory.

    Of the batches with results, `refused_share` are refused by the broker.
    """

    def __init__(
        self,
        seed: int,
        *,
        snapshot_records: int,
        refused_share: float = 0.0,
        more: MakeFolds = tuple,
        layers: Sequence[MakeLayer] = (),
        **settings: Any,
    ) -> None:
        self.chance = random.Random(seed)  # noqa: S311  the same history each time
        self.clock = Clock()
        self.collector = MetricsCollector()
        self.more = more
        self.layers = layers
        self.settings = Settings(
            **{"snapshot_records": snapshot_records, "dedup_ids_max": IDS_MAX} | settings
        )
        self.broker = MemoryBroker(self.settings, self.clock)
        self.broker.create_topics(BASE_TOPICS, partitions=1)
        self.clients = MemoryClients(self.broker)
        self.make_reader = lambda: PartitionReader(self.settings, self.clients)
        results = self.settings.topic(RESULTS.name)
        self.broker.refuse(results, lambda: self.chance.random() < refused_share)

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[PartitionReader]:
        """Give a reader of the topics."""
        reader = self.make_reader()
        await reader.start()
        try:
            yield reader
        finally:
            await reader.stop()

    @asynccontextmanager
    async def committer(self) -> AsyncIterator[Committer]:
        """Give the next lane's committer; what it has not committed in the end is gone."""
        committer = Committer(
            lambda number: self.clients.transactional_producer(f"lane-{number}"),
            producers=self.settings.transactional_producers,
            records_max=self.settings.commit_records_max,
            timeout_s=self.settings.commit_timeout_s,
            gather_s=0,
            on_lost=lambda _lost: None,
        )
        await committer.start()
        try:
            yield committer
        finally:
            await committer.stop()
            self.broker.write_withheld()  # what is committed is there to be read at once

    @asynccontextmanager
    async def lane(self, policy: Policy = POLICY) -> AsyncIterator[WritingLane]:
        """Open the next lane; it ends as by a crash."""
        (stage,) = chain_stages(self.settings, policy)
        metrics = LaneMetrics.declare(self.collector)
        services = SimpleNamespace(
            clock_ms=self.clock,
            peek_checkpoint=no_redis,
            metrics=metrics,
            checkpoints=CheckpointCache(),
        )
        async with (
            self.committer() as committer,
            self.reader() as reader,
            writing_lane(
                self.settings,
                cast("Any", services),
                stage,
                policy,
                committer=committer,
                reader=reader,
                more=self.more,
                layers=self.layers,
            ) as lane,
        ):
            yield lane

    async def restored(
        self, policy: Policy = POLICY, *, upto: Mapping[str, int] | None = None, **other: Any
    ) -> tuple[LaneState, Restored]:
        """Give what the next lane would know, under other settings perhaps."""
        settings = self.settings.model_copy(update=other)
        async with self.reader() as reader:
            return await restored_state(
                settings,
                policy,
                reader,
                now_ms=self.clock(),
                upto=upto,
                more=self.more,
                layers=self.layers,
            )

    def where(self, spec: TopicSpec) -> TopicPartition:
        """Give a topic's partition."""
        return TopicPartition(self.settings.topic(spec.name), PARTITION)

    def records(self, spec: TopicSpec) -> Sequence[StoredRecord]:
        """Give what is committed on a topic."""
        return self.broker.records(self.where(spec))

    def end(self, spec: TopicSpec) -> int:
        """Give where a topic ends now."""
        return self.broker.partition(self.where(spec)).high_watermark

    def ends(self) -> dict[str, int]:
        """Give where each topic that a restore may read ends now, by name."""
        return {spec.name: self.end(spec) for spec in BASE_TOPICS}

    def delete_before(self, spec: TopicSpec, offset: int) -> None:
        """Delete a topic's records, as retention does."""
        self.broker.delete_before(self.where(spec), offset)

    def compact(self, spec: TopicSpec) -> None:
        """Compact a topic."""
        self.broker.compact(self.settings.topic(spec.name))

    async def folded_whole(self, policy: Policy = POLICY, **other: Any) -> LaneState:
        """Fold the whole window: no snapshot is read."""
        state, restored = await self.restored(policy, upto={SNAPSHOTS.name: 0}, **other)
        assert restored.snapshot is None
        return state

    def spoil(self, part: str, change: Callable[[bytes], bytes | None]) -> None:
        """Put another record in the place of a part of the snapshot."""
        key = f"chain\x1f{part}".encode()
        newest = [record for record in self.records(SNAPSHOTS) if record.key == key][-1]
        assert newest.value is not None
        self.broker.append(self.where(SNAPSHOTS), key, change(newest.value))
