from __future__ import annotations

import asyncio
from pathlib import Path

from aiokafka import AIOKafkaProducer
from faust.types import TP

from agents.executor import AgentExecutor, wall_clock_ms
from agents.factory import AgentFactory
from middleware.pipeline import build_pipeline
from schemas.topics import CONTROL, REQUESTS
from streams.lane_metrics import LaneMetrics
from streams.lane_parts import LaneServices, stages
from streams.lane_slot import LaneSlot
from streams.lanes import Lanes
from streams.metrics import MetricsCollector
from streams.settings import Settings
from tests.lane_harness import no_redis
from tests.support import eventually


class Place:
    """Stands for a slot; it closes only when it may."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()

    def confirm(self) -> None:
        """Nothing waits for it here."""

    async def close(self) -> None:
        self.closing.set()
        await self.may_close.wait()


class LanesOfPlaces(Lanes):
    """Lanes that open no lane, so that they need no broker."""

    def _open_slot(self, partition: int) -> LaneSlot:
        return Place(partition)  # type: ignore[return-value]


def lanes_of_places(settings: Settings) -> LanesOfPlaces:
    factory = AgentFactory(default_model="scripted")
    services = LaneServices(
        worker="test",
        producer=AIOKafkaProducer(bootstrap_servers=settings.kafka),
        factory=factory,
        run_agent=AgentExecutor(factory).run,
        peek_checkpoint=no_redis,
        clock_ms=wall_clock_ms,
        metrics=LaneMetrics.declare(MetricsCollector()),
        drain=lambda: None,
    )
    [stage] = stages((), lambda: build_pipeline(None).split(()))
    return LanesOfPlaces(settings, services, stage)


async def test_partitions_that_come_have_their_slots_before_those_that_go_are_closed(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)

    def both(*partitions: int) -> set[TP]:
        names = (settings.topic(REQUESTS.name), settings.topic(CONTROL.name))
        return {TP(name, number) for name in names for number in partitions}

    await lanes._assigned(lanes.app, both(0, 1))
    gone: list[Place] = [lanes._slots[0], lanes._slots[1]]  # type: ignore[list-item]
    swap = asyncio.create_task(lanes._assigned(lanes.app, both(2, 3)))
    await eventually(lambda: all(place.closing.is_set() for place in gone))
    # A record of partition 2 may come now: closing lanes takes as long as their last commit.
    assert sorted(lanes._slots) == [2, 3]
    assert not swap.done()
    for place in gone:
        place.may_close.set()
    await swap
