"""Records of any size in lanes in memory, between a neighbour's honest ones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from millstream.schemas.base import Event
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import (
    CONTROL,
    DEAD_LETTERS,
    REQUESTS,
    RESULTS,
    RUN_MIGRATIONS,
    SESSION_COMMANDS,
    TopicSpec,
)
from millstream.streams.broker.memory.producers import MemoryProducer
from millstream.streams.wire.partitioning import home_partition, name_at
from tests.contracts.log_world import started
from tests.harness.memory_lanes import MemoryLanes, running_lanes
from tests.support import eventually

__all__ = ["ASKED", "BATCH_BYTES_MAX", "COMMANDS", "GZIP", "Beside", "beside", "home", "padded"]

GZIP: Final = 1
BATCH_BYTES_MAX: Final = 1_048_588
"""The default of a broker's `message.max.bytes`."""

ASKED: Final = {"user_id": "ada", "request_id": "r1", "input": "say: served"}
COMMANDS: Final[dict[str, tuple[TopicSpec, dict[str, Any]]]] = {
    "request": (REQUESTS, ASKED),
    "control": (CONTROL, {"user_id": "ada", "command": "cancel", "request_id": "r1"}),
    "session": (
        SESSION_COMMANDS,
        {"user_id": "ada", "command_id": "c1", "operation": "create", "session_id": "s1"},
    ),
    "migration": (RUN_MIGRATIONS, {"user_id": "ada", "request_id": "r1", "to_version": "2"}),
}


@dataclass
class Beside:
    """Lanes in memory, and a neighbour's requests around a record on one partition."""

    world: MemoryLanes
    stages: Any
    codec: int = 0
    asked: int = 0

    async def put(
        self,
        spec: TopicSpec,
        value: dict[str, Any] | bytes | None,
        *,
        partition: int,
        key: bytes | None = b"ada",
        headers: tuple[tuple[str, bytes], ...] = (),
        codec: int | None = None,
    ) -> int:
        """Publish a record, and an honest one of a user at home there before and behind it."""
        raw = json.dumps(value).encode() if isinstance(value, dict) else value
        async with started(MemoryProducer(self.world.broker, codec=self.codec)) as producer:
            await self._neighbour(producer, partition)
            # A client may be set to send whatever its broker takes.
            batch = BatchBuilder(1 << 30, self.codec if codec is None else codec)
            batch.append(timestamp=None, key=key, value=raw, headers=list(headers))
            sent = await (
                await producer.send_batch(batch, self.world.topic(spec), partition=partition)
            )
            await self._neighbour(producer, partition)
        return sent.offset

    async def _neighbour(self, producer: MemoryProducer, partition: int) -> None:
        self.asked += 1
        name = name_at(partition, self.world.settings.partitions)
        value = {"user_id": name, "request_id": f"n{self.asked}", "input": "say: beside"}
        await producer.send_and_wait(
            self.world.topic(REQUESTS), json.dumps(value).encode(), name.encode(), partition
        )

    async def neighbours_are_served(self) -> None:
        """Return once all neighbours have their answers, and no lane was lost."""
        wanted = {f"n{number}" for number in range(1, self.asked + 1)}

        def answered() -> bool:
            done = {one.request_id for one in self.all_of(RESULTS, AgentResult)}
            return wanted <= done or self.lost > 0

        await eventually(answered, timeout_s=5)
        assert self.lost == 0

    @property
    def lost(self) -> int:
        """How many lanes were lost."""
        return sum(one.figures().lost for one in self.stages)

    def all_of(self, spec: TopicSpec, event: type[Event]) -> list[Any]:
        """Give all events of a topic that are committed."""
        return [
            event.model_validate_json(record.value)
            for number in range(self.world.settings.partitions)
            for record in self.world.broker.records(TopicPartition(self.world.topic(spec), number))
            if record.value is not None
        ]

    @property
    def letters_now(self) -> int:
        """How many dead letters there are."""
        return len(self.all_of(DEAD_LETTERS, DeadLetter))

    async def letters(self, count: int = 1) -> list[DeadLetter]:
        """Give the dead letters once there are so many."""
        await eventually(lambda: self.letters_now >= count or self.lost, timeout_s=5)
        return self.all_of(DEAD_LETTERS, DeadLetter)

    async def results(self, *wanted: str) -> dict[str, AgentResult]:
        """Give these results once they are there."""

        def known() -> dict[str, AgentResult]:
            return {one.request_id: one for one in self.all_of(RESULTS, AgentResult)}

        await eventually(lambda: set(wanted) <= set(known()) or self.lost, timeout_s=5)
        return known()


@asynccontextmanager
async def beside(world: MemoryLanes, *, codec: int = 0, **limits: int) -> AsyncIterator[Beside]:
    """Run lanes; `limits` are the largest batches of topics, by the topics' names."""
    for name, limit in limits.items():
        topic = world.settings.topic(name.replace("_", "-"))
        world.broker.create_topic(topic, world.settings.partitions, batch_bytes_max=limit)
    async with running_lanes(world) as stages:
        yield Beside(world, stages, codec)


def home(world: MemoryLanes, user: str = "ada") -> int:
    """Give the partition that a user is at home at."""
    return home_partition(user, world.settings.partitions)


def padded(value: dict[str, Any], size: int) -> bytes:
    """Give JSON of exactly `size` bytes, by a field that nobody knows."""
    rest = size - len(json.dumps({**value, "pad": ""}))
    return json.dumps({**value, "pad": "x" * rest}).encode()
