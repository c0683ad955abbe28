"""What went wrong elsewhere as state was taken back from a snapshot, tried on ours.

Public reports, by their mechanism:

- preloopdev/preloop#165, camunda/camunda#49812, microsoft/service-fabric-issues#9: what an older
  program wrote lacks a field, reading it back raises, and nothing starts ever again.
- spotify/flink-on-k8s-operator#589: a savepoint that does not fit the job is asked for, again and
  again, where the job could begin without it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from millstream.middleware.base import AgentMiddleware, MiddlewareContext, MiddlewareResult
from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.base import Event
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import LaneSnapshot
from millstream.schemas.topics import REQUESTS, RESULTS, SNAPSHOTS
from millstream.streams.lane.base.context import stages
from millstream.streams.lane.state.snapshot_format import HEADER, digest
from tests.harness.memory_lanes import (
    MemoryLanes,
    MemoryStage,
    lane_services,
    read_topic,
    read_whole,
    upstream,
    write_event,
)
from tests.support import eventually

pytestmark = pytest.mark.promise("P8")

ASKED = {"user_id": "ada", "input": "say: served"}


class Counting(AgentMiddleware):
    """Counts results; what it gives of that has grown a field."""

    name = "counting"
    priority = 35
    folds: ClassVar[frozenset[type[Event]]] = frozenset({AgentResult})
    history_ms = 86_400_000
    seen: ClassVar[list[Counting]] = []
    reads = "count"

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.seen.append(self)

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:
        return super().admit(context)

    def fold(self, event: Event) -> None:  # noqa: ARG002
        self.count += 1

    def state(self) -> Any:
        return {"count": self.count}

    def load(self, state: Any) -> None:
        self.count = 1_000  # what it has taken in by then is not to count
        self.count = state[self.reads]


class Grown(Counting):
    reads = "count_by_model"


@asynccontextmanager
async def worker(world: MemoryLanes, *layers: type[AgentMiddleware]) -> AsyncIterator[MemoryStage]:
    (stage,) = stages((), lambda: build_pipeline(layers=layers).split(()))
    async with lane_services(world) as services:
        running = MemoryStage(world, services, stage)
        try:
            await eventually(lambda: running.is_ready)
            yield running
        finally:
            await running.stop()


async def served_once(world: MemoryLanes, *layers: type[AgentMiddleware]) -> None:
    """Serve two requests, and have a snapshot of that."""
    async with worker(world, *layers), upstream(world) as program:
        for name in ("a", "b"):
            await program.publish({**ASKED, "request_id": name})
        await read_topic(world, RESULTS, AgentResult, count=2)
    assert await read_whole(world, SNAPSHOTS, LaneSnapshot)


async def goes_on(world: MemoryLanes, *layers: type[AgentMiddleware]) -> int:
    """Ask the same once more, and something else; gives how many lanes were lost before."""
    async with worker(world, *layers) as running, upstream(world) as program:
        for name in ("a", "b", "c"):
            await program.publish({**ASKED, "request_id": name}, topic=world.topic(REQUESTS))
        results = await read_topic(world, RESULTS, AgentResult, count=3)
        lost = running.figures().lost
    assert [one.request_id for one in results] == ["a", "b", "c"]
    return lost


async def test_a_layer_that_cannot_take_its_older_state_in_folds_its_history(
    world: MemoryLanes,
) -> None:
    world = world.changed(partitions=1)
    await served_once(world, Counting)
    Counting.seen.clear()
    assert await goes_on(world, Grown) == 3
    assert Counting.seen[-1].count == 3


Change = Callable[[dict[str, Any]], None]

CHANGES: dict[str, Change] = {
    "a list where a row is": lambda state: state.update(decided=[[]]),
    "no list of rows": lambda state: state.update(parked=7),
    "bytes that are none": lambda state: state.update(open_user_ids="?"),
    "bytes cut off": lambda state: state.update(open_user_ids=base64.b64encode(b"x" * 40).decode()),
    "a layer without its fields": lambda state: state["layers"].update(rate_limit={}),
    "no object of layers": lambda state: state.update(layers=[]),
    "a time beyond all": lambda state: state.update(cancelled=[[["default", "ada", "s"], "x"]]),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_snapshot_of_another_shape_under_its_right_digest_stops_no_lane_for_long(
    world: MemoryLanes, change: str
) -> None:
    world = world.changed(partitions=1)
    await served_once(world)
    parts = {one.part: one for one in await read_whole(world, SNAPSHOTS, LaneSnapshot)}
    header, part = parts[HEADER], parts["state-0"]
    assert header.header is not None
    assert header.header.state_parts == 1
    state = json.loads(zlib.decompress(base64.b64decode(part.data or "")))
    CHANGES[change](state)
    data = zlib.compress(json.dumps(state).encode())
    said = header.header.model_copy(update={"state_digest": digest(data)})
    async with upstream(world) as program:
        update = {"data": base64.b64encode(data).decode()}
        for event in (
            part.model_copy(update=update),
            header.model_copy(update={"header": said}),
        ):
            await write_event(world, program, SNAPSHOTS, event)
    await goes_on(world)
