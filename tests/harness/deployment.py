"""One lane after the other over a partition in memory, by a clock that a test moves on."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from millstream.middleware.policy import Policy
from millstream.schemas.topics import BASE_TOPICS, SNAPSHOTS
from millstream.streams.lane.base.metrics import LaneMetrics
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.restore import Restored
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from tests.fakes.memory_lane import MemoryCommitter, MemoryPartition, MemoryReader, MemoryRecord
from tests.harness.lanes import chain_stages, no_redis
from tests.harness.writing_lane import (
    POLICY,
    Clock,
    MakeFolds,
    WritingLane,
    restored_state,
    writing_lane,
)

IDS_MAX = 1000


class Deployment:
    """One lane after the other over a partition in memory."""

    def __init__(
        self,
        seed: int,
        *,
        snapshot_records: int,
        refused_share: float = 0.0,
        more: MakeFolds = tuple,
        **settings: Any,
    ) -> None:
        self.chance = random.Random(seed)  # noqa: S311  the same history each time
        self.clock = Clock()
        self.log = MemoryPartition(self.clock)
        self.refused_share = refused_share
        self.collector = MetricsCollector()
        self.more = more
        self.settings = Settings(
            **{"snapshot_records": snapshot_records, "dedup_ids_max": IDS_MAX} | settings
        )
        self.reader = cast("Any", MemoryReader(self.log))

    @asynccontextmanager
    async def lane(self, policy: Policy = POLICY) -> AsyncIterator[WritingLane]:
        """Open the next lane; it ends as by a crash."""
        (stage,) = chain_stages(self.settings, policy)
        committer = MemoryCommitter(self.log, self.chance, refused_share=self.refused_share)
        metrics = LaneMetrics.declare(self.collector)
        services = SimpleNamespace(clock_ms=self.clock, peek_checkpoint=no_redis, metrics=metrics)
        try:
            async with writing_lane(
                self.settings,
                cast("Any", services),
                stage,
                policy,
                committer=cast("Any", committer),
                reader=self.reader,
                more=self.more,
            ) as lane:
                yield lane
        finally:
            await committer.crash()

    async def restored(
        self, policy: Policy = POLICY, *, upto: Mapping[str, int] | None = None, **other: Any
    ) -> tuple[LaneState, Restored]:
        """Give what the next lane would know, under other settings perhaps."""
        settings = self.settings.model_copy(update=other)
        return await restored_state(
            settings, policy, self.reader, now_ms=self.clock(), upto=upto, more=self.more
        )

    def ends(self) -> dict[str, int]:
        """Give where each topic that a restore may read ends now, by name."""
        return {spec.name: self.log.ends[self.settings.topic(spec.name)] for spec in BASE_TOPICS}

    async def folded_whole(self) -> LaneState:
        """Fold the whole window: with another window no snapshot is used."""
        state, restored = await self.restored(dedup_window_s=7 * 86_400)
        assert restored.snapshot is None
        return state

    def spoil(self, part: str, change: Callable[[bytes], bytes | None]) -> None:
        """Put another record in the place of a part of the snapshot."""
        topic = self.settings.topic(SNAPSHOTS.name)
        key = f"chain\x1f{part}".encode()
        newest = [record for record in self.log.topics[topic] if record.key == key][-1]
        assert newest.value is not None
        offset = self.log.ends[topic]
        self.log.ends[topic] += 1
        self.log.topics[topic].append(
            MemoryRecord(topic, 0, offset, self.clock(), key, change(newest.value))
        )
