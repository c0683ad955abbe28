"""A run that waits for longer than its topics keep anything, on a broker that deletes soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from millstream.agents.loop.callbacks import CallbackEvent
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import HoldPlaced
from millstream.schemas.topics import CHECKPOINTS, HOLDS, JOURNAL, RESULTS, catalogue
from millstream.streams.broker.clients import admin_client
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from tests.contracts.log_world import started
from tests.harness.guarded_kafka import own_kafka
from tests.harness.lanes import ask, give, lane_services, one_lane, read_topic, reader, upstream
from tests.support import eventually

pytestmark = [pytest.mark.promise("P2"), pytest.mark.slow]

TEXT = 'call: calculator {"expression": "1+1"}; call: calculator {"expression": "2+2"}; say: done'
KEPT_MS = 4_000
SOON = (("log.retention.check.interval.ms", "500"), ("log.initial.task.delay.ms", "500"))


@pytest.fixture
async def forgetful(settings: Settings, tmp_path: Path) -> AsyncIterator[Settings]:
    """A broker of its own, whose topics `journal` and `checkpoints` keep seconds."""
    own = settings.model_copy(update={"partitions": 1})
    configs = {
        "retention.ms": str(KEPT_MS),
        "segment.ms": "500",
        "message.timestamp.type": "LogAppendTime",
    }
    async with own_kafka(own, tmp_path, SOON) as here:
        await ensure_topics(here, catalogue(()))
        admin = admin_client(here)
        await admin.start()
        try:
            for spec in (JOURNAL, CHECKPOINTS):
                topic = here.topic(spec.name)
                changes = [ConfigResource(ConfigResourceType.TOPIC, topic, configs)]
                for response in await admin.alter_configs(changes):
                    assert all(not one["error_code"] for one in response.to_object()["resources"])
        finally:
            await admin.close()
        yield here


class Held:
    """Has the second call of a tool stand still; counts the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_held, self.goes_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, event: CallbackEvent) -> None:
        """Hear of a step of a run."""
        if event.kind not in {"model_start", "tool_start"}:
            return
        self.calls.append(event.kind)
        if self.calls == ["model_start", "model_start", "tool_start", "model_start", "tool_start"]:
            self.is_held.set()
            await self.goes_on.wait()


async def test_run_goes_on_whose_journal_and_checkpoint_the_broker_deleted_long_ago(
    forgetful: Settings,
) -> None:
    held = Held()
    places = [TopicPartition(forgetful.topic(one.name), 0) for one in (JOURNAL, CHECKPOINTS)]
    async with (
        lane_services(forgetful, held) as given,
        upstream(forgetful) as program,
        started(reader(forgetful)) as log,
    ):
        limits = replace(given.limits, renewed_after_s=KEPT_MS / 2000, look_who_is_old_every_s=0.2)
        services = replace(given, limits=limits)
        asked = {"template": "react_agent", "session_id": "s"}
        async with one_lane(forgetful, services, None) as owner:
            owner.serve(*await ask(program, "say: hello", request_id="r0", **asked))
            await read_topic(forgetful, RESULTS, AgentResult, count=1)
            owner.serve(*await ask(program, TEXT, request_id="r1", **asked))
            await asyncio.wait_for(held.is_held.wait(), 30)
            owner.serve(*await give(forgetful, program, "pause", request_id="r1"))
            await read_topic(forgetful, HOLDS, HoldPlaced, count=1)
            held.goes_on.set()
            await eventually(lambda: owner.lane.waiting == 1)
            ends = await log.high_watermarks(places)
            waits_until = time.monotonic() + 2 * KEPT_MS / 1000

            async def are_deleted() -> bool:
                starts = await log.log_start_offsets(places)
                is_gone = all(starts[one] >= ends[one] for one in places)
                return is_gone and time.monotonic() > waits_until

            await eventually(are_deleted, timeout_s=60)
        async with one_lane(forgetful, services, None) as owner:
            owner.serve(*await give(forgetful, program, "resume", request_id="r1"))
            *_, result = await read_topic(forgetful, RESULTS, AgentResult, count=2)
    assert (result.status, result.output, result.turn) == ("completed", "done", 2)
    assert held.calls[5:] == ["model_start"]
