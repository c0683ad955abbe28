"""The writing side of a lane, with its layers and its snapshots, without agents."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from millstream.middleware.base import AttemptUsage, MiddlewareContext, RunAccount
from millstream.middleware.pipeline import MakeLayer, build_pipeline
from millstream.middleware.policy import Policy
from millstream.schemas.base import Address, Usage
from millstream.schemas.events import (
    AgentResult,
    AttemptStarted,
    Decision,
    ResolvedRequest,
)
from millstream.schemas.reasons import result_of
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneContext, LaneServices, Stage
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.output.in_flight import InFlightRequests
from millstream.streams.lane.output.snapshot_writer import SnapshotWriter
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.state.folds import Fold
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.restore import Restored, restore
from millstream.streams.lane.state.seen_ids import SeenIds
from millstream.streams.settings import Settings
from millstream.streams.transactions.committer import Committer
from tests import making

PARTITION = 0
CHUNK_IDS = 16

POLICY = Policy.from_yaml(
    """
    defaults: {rate: {requests: 5, window_s: 1}, spend: {micros_per_day: 4000}}
    prices: {local: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}
    """,
    "p",
)


@dataclass
class Clock:
    """A clock that a test moves on, and how many requests and commands were given by it."""

    now_ms: int = 1_790_000_000_000
    asked: int = 0
    commanded: int = 0

    def tick(self, ms: int) -> int:
        """Move on and give the time."""
        self.now_ms += ms
        return self.now_ms

    def __call__(self) -> int:
        """Give the time."""
        return self.now_ms


@dataclass
class WritingLane:
    """Decides on requests and ends their runs, as a lane does, as fast as it is told to."""

    state: LaneState
    committer: Committer
    writer: LaneWriter
    snapshots: SnapshotWriter
    in_flight: InFlightRequests
    restored: Restored
    open: dict[str, ResolvedRequest] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def ask(
        self, request_id: str, user_id: str, at_ms: int, *, decided_ms: int | None = None
    ) -> None:
        """Decide on a request, unless it is known; after a crash its decision stands.

        It came at `at_ms`, and is decided on then, or else at `decided_ms`.
        """
        source = Address(topic="requests", partition=PARTITION, offset=0)
        asked = making.request(user_id=user_id, request_id=request_id, session_id="s", input="hi")
        request = asked.resolved(source, at_ms)
        key = ("default", user_id, request_id)
        if not self.in_flight.register(key, request.digest):
            return
        if key in self.state.decided:
            self.open[request_id] = request
            return
        context = MiddlewareContext(request, at_ms, "local", 100, 100)
        decision = self.state.pipeline.decide(context, generation=self.state.generation)
        if decision.admitted:
            self.open[request_id] = request
            self.writer.submit([decision], b"", lazy=True)
            attempt = self.state.generation * 1000
            begun = self.state.pipeline.begin(context, RunAccount(), attempt=attempt)
            if isinstance(begun, AttemptStarted):
                self.writer.submit([begun], b"")
            return
        refused = result_of(
            request, at_ms=decided_ms or at_ms, status="rejected", reason=decision.reason
        )
        self._finish(request, refused, None, decision)

    def end(self, request_id: str, *, tokens: int, at_ms: int) -> None:
        """End an open run."""
        request = self.open.pop(request_id)
        ended = result_of(request, at_ms=at_ms, status="completed", model="local")
        attempt = self.state.generation * 1000
        used = AttemptUsage(attempt, "local", request.template, Usage(output_tokens=tokens))
        self._finish(request, ended, used)

    def cancel(self, session_id: str, at_ms: int, *, offset: int) -> None:
        """Mark a session's cancel as obeyed."""
        source = Address(topic="control", partition=PARTITION, offset=offset)
        mark = making.obeyed(session_id=session_id, at_ms=at_ms, until_ms=at_ms, source=source)
        self.writer.submit([mark])

    def _finish(
        self,
        request: ResolvedRequest,
        ended: AgentResult,
        used: AttemptUsage | None,
        *decided: Decision,
    ) -> None:
        events = [*decided, *self.in_flight.settlement(request, ended, used)]
        task = asyncio.create_task(self.in_flight.finish(None, request, events, b""))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def play(
        self, chance: random.Random, steps: int, clock: Clock, *, new_share: float = 0.6
    ) -> None:
        """Ask and end at random, letting commits happen now and then.

        `new_share` of the requests are new, the others come again.
        """
        for _ in range(steps):
            now_ms = clock.tick(chance.randint(0, 50))
            if self.open and chance.random() < 0.5:
                picked = chance.choice(sorted(self.open))
                self.end(picked, tokens=chance.randint(0, 150), at_ms=now_ms)
            else:
                is_new = chance.random() < new_share
                number = clock.asked if is_new else chance.randint(0, clock.asked)
                clock.asked += is_new
                self.ask(f"r{number}", f"u{number % 7}", now_ms)
            if chance.random() < 0.05:
                clock.commanded += 1
                self.cancel(f"s{clock.asked % 5}", now_ms, offset=clock.commanded)
            if chance.random() < 0.1 and self.tasks:
                await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
            elif chance.random() < 0.05 and self.snapshots._task is not None:
                await asyncio.wait({self.snapshots._task})
            elif chance.random() < 0.3:
                await asyncio.sleep(0)  # noqa: TID251  lets commits happen between two steps

    async def settled(self) -> None:
        """Wait until all that was submitted is committed."""
        while self.tasks:
            await asyncio.wait(self.tasks)
        await self.committer.submit(())


MakeFolds = Callable[[], tuple[Fold, ...]]


def new_state(
    settings: Settings,
    policy: Policy | None,
    more: MakeFolds = tuple,
    layers: Sequence[MakeLayer] = (),
) -> LaneState:
    """Give the state of a lane that has read nothing; its ids are kept in small chunks.

    `more` makes folds that its list has besides, `layers` those of an app.
    """
    seen = SeenIds(ids_max=settings.dedup_ids_max, chunk_ids=CHUNK_IDS)
    pipeline = build_pipeline(policy, layers=layers)
    return LaneState("chain", pipeline, hands_over=False, seen=seen, more=more())


async def restored_state(
    settings: Settings,
    policy: Policy | None,
    reader: PartitionReader,
    *,
    now_ms: int,
    upto: Mapping[str, int] | None = None,
    more: MakeFolds = tuple,
    layers: Sequence[MakeLayer] = (),
) -> tuple[LaneState, Restored]:
    """Restore a lane's state as its next owner would, or as of earlier offsets."""
    state = new_state(settings, policy, more, layers)
    return state, await restore(
        state, reader, settings, partition=PARTITION, now_ms=now_ms, upto=upto
    )


async def no_objection() -> None:
    """Let every call be made."""


def fail_loudly(error: BaseException) -> None:
    """Stand where a lane would be ended by an error."""
    raise error


def lane_context(
    settings: Settings,
    services: LaneServices,
    stage: Stage,
    partition: int = 0,
    *,
    fail: Callable[[BaseException], None] = fail_loudly,
) -> LaneContext:
    """Give what the parts of a lane are built from, where a test puts them together itself."""
    return LaneContext(settings, services, stage, partition, no_objection, CrashCounter(), fail)


@asynccontextmanager
async def writing_lane(
    settings: Settings,
    services: LaneServices,
    stage: Stage,
    policy: Policy | None,
    *,
    committer: Committer,
    reader: PartitionReader,
    more: MakeFolds = tuple,
    layers: Sequence[MakeLayer] = (),
) -> AsyncIterator[WritingLane]:
    """Open a lane's writing side over what earlier ones committed; left as by a crash.

    `committer` and `reader` are started.
    """
    state, restored = await restored_state(
        settings, policy, reader, now_ms=services.clock_ms(), more=more, layers=layers
    )
    context = lane_context(settings, services, stage, PARTITION)
    writer = LaneWriter(context, state=state, committer=committer, reader=reader)
    snapshots = SnapshotWriter(
        settings,
        PARTITION,
        state=state,
        writer=writer,
        committer=committer,
        followed=dict,
        clock_ms=services.clock_ms,
    )
    in_flight = InFlightRequests(state=state, writer=writer, clock_ms=services.clock_ms)
    writer.watch(snapshots.consider)
    await writer.open(restored.ends)
    number = state.generation + 1
    await writer.commit([making.opened(partition=PARTITION, generation=number)])
    snapshots.open(restored)
    lane = WritingLane(state, committer, writer, snapshots, in_flight, restored)
    try:
        yield lane
    finally:
        snapshots.cancel()
        for task in lane.tasks:
            task.cancel()
