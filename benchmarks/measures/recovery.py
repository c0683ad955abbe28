"""What a lane's restore reads and how long it takes, after ever longer histories.

The history is what a lane would have written: a decision, a result, a cost and a session's head for
each request, committed by its own writing side, which takes its snapshots on the way and none at
the end, as if it were killed. Then the same topics are restored: from the newest snapshot, from it
under other caps and under greater rates, and without it from the window; each in a process of its
own, whose memory is its own. Last, how long a snapshot of 100,000 users holds up the loop.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from benchmarks.report import Figure
from millstream.agents.executor import wall_clock_ms
from millstream.middleware.base import AttemptUsage, MiddlewareContext
from millstream.middleware.pipeline import build_pipeline
from millstream.middleware.policy import Policy
from millstream.schemas.base import Address, Usage
from millstream.schemas.events import AgentRequest, CostRecorded, SessionUpdated
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.reasons import result_of
from millstream.schemas.topics import REQUESTS as REQUESTS_TOPIC
from millstream.schemas.topics import SNAPSHOTS, catalogue
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.lane.base.context import LaneContext, LaneServices, Stage, stages
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.base.metrics import LaneMetrics
from millstream.streams.lane.output.snapshot_writer import SnapshotWriter
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.restore import restore
from millstream.streams.settings import Settings
from millstream.streams.telemetry.logs import configure_logging
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.transactions.committer import Committer
from millstream.streams.transactions.guarded_producer import guarded_producer

__all__ = ["run"]

HISTORIES = (2_500, 10_000)
"""How many requests came before; and last as many as are asked for."""

REQUESTS = 50_000
POLICY_RATIO_MAX = 2.0
"""The bar for a restart under another policy: so many times as long as under the same."""

MEMORY_RATIO_MAX = 1.2
USERS = 1_000
SESSIONS = 200
USERS_OF_THE_STALL = 100_000
RECORDS_MAX = 30_000
"""The bar for what is read after the longest history, the heads that await compaction included."""

_AT_ONCE = 250


def _policy(rate: str, usd_per_day: int) -> Policy:
    return Policy.from_yaml(
        f"""
        defaults: {{rate: {rate}, spend: {{usd_per_day: {usd_per_day}}}}}
        prices: {{local: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}}}
        """,
        "recovery",
    )


_POLICY = _policy("{requests: 1000, window_s: 3600}", 100)
_OTHER_CAPS = _policy("{requests: 1000, window_s: 3600}", 50)
_OTHER_RATES = _policy("{requests: 1000, window_s: 7200}", 100)


def run(settings: Settings, requests: int = REQUESTS) -> Iterator[Figure]:
    """Measure, last with `requests` before it; give the figures."""
    configure_logging(settings.model_copy(update={"log_level": "warning"}))
    for before in (*HISTORIES, requests):
        fresh = _fresh(settings)
        asyncio.run(_fill(fresh, before))
        yield from _recovery(fresh, before, is_last=before == requests)
    yield from asyncio.run(_stall(_fresh(settings)))


def _fresh(settings: Settings) -> Settings:
    namespace = f"bench-{secrets.token_hex(4)}"
    return settings.model_copy(update={"namespace": namespace, "partitions": 1})


async def _fill(settings: Settings, requests: int) -> None:
    async with _writing(settings) as lane:
        for first in range(0, requests, _AT_ONCE):
            await asyncio.gather(*(lane.serve(first + number) for number in range(_AT_ONCE)))


def _recovery(settings: Settings, requests: int, *, is_last: bool) -> Iterator[Figure]:
    name = f"recovery_after_{requests}"
    same = _restored(settings, _POLICY)
    ways = {
        "with_snapshots": same,
        "with_other_caps": _restored(settings, _OTHER_CAPS),
        "with_other_rates": _restored(settings, _OTHER_RATES),
        "from_the_window": _restored(settings, _POLICY, {SNAPSHOTS.name: 0}),
    }
    for way, one in ways.items():
        if one["by_snapshot"] is (way == "from_the_window"):
            message = f"{way}: the snapshot was used, or not used, where it had to be otherwise"
            raise RuntimeError(message)
        is_bounded = is_last and one is same
        bar = RECORDS_MAX if is_bounded else None
        yield Figure(f"{name}_{way}_records", one["records"], "records", bar, at_most=True)
        yield Figure(f"{name}_{way}_tail_records", one["tail_records"], "records")
        yield Figure(f"{name}_{way}_s", one["seconds"], "s")
        yield Figure(f"{name}_{way}_restart_s", one["restart_s"], "s")
        yield Figure(f"{name}_{way}_cpu_s", one["cpu_s"], "s")
        yield Figure(f"{name}_{way}_peak_mib", one["peak_mib"], "MiB")
        yield Figure(f"{name}_{way}_after_mib", one["after_mib"], "MiB")
        if way in {"with_other_caps", "with_other_rates"}:
            times = one["restart_s"] / same["restart_s"]
            memory = one["peak_mib"] / same["peak_mib"]
            bars = (POLICY_RATIO_MAX, MEMORY_RATIO_MAX) if is_last else (None, None)
            yield Figure(f"{name}_{way}_times_the_restart", times, "x", bars[0], at_most=True)
            yield Figure(f"{name}_{way}_times_the_peak", memory, "x", bars[1], at_most=True)


def _restored(
    settings: Settings, policy: Policy, upto: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Restore in a process of its own; give what `programs/restorer.py` says of it.

    And `restart_s`: how long that took from the start of the process to its end.
    """
    given = (settings.model_dump_json(), policy.model_dump_json(), json.dumps(upto or {}))
    command = (sys.executable, "-m", "benchmarks.programs.restorer", *given)
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {**json.loads(done.stdout), "restart_s": time.perf_counter() - began}


async def _stall(settings: Settings) -> list[Figure]:
    async with _writing(settings) as lane:
        for number in range(USERS_OF_THE_STALL):
            lane.decide(number, f"user-{number}")
        lane.writer.submit([lane.decide(0, "the-last-one")])
        beating = asyncio.create_task(_longest_gap_s())
        await asyncio.sleep(0.1)
        began = time.perf_counter()
        await lane.snapshots.close(60)
        took_s = time.perf_counter() - began
        beating.cancel()
        gap_s = await beating
    name = f"snapshot_of_{USERS_OF_THE_STALL}_users"
    return [
        Figure(f"{name}_loop_held_up_ms", gap_s * 1000, "ms"),
        Figure(f"{name}_taken_in_ms", took_s * 1000, "ms"),
        Figure(f"{name}_kb", lane.snapshots.state_bytes / 1000, "kB"),
    ]


async def _longest_gap_s() -> float:
    longest_s = 0.0
    try:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.perf_counter() - before)
    except asyncio.CancelledError:
        return longest_s


@dataclass
class _Writing:
    """The writing side of a lane, and what it would be told by agents."""

    state: LaneState
    writer: LaneWriter
    snapshots: SnapshotWriter
    address: Address

    async def serve(self, number: int) -> None:
        """Decide on a request and end it."""
        user_id = f"user-{number % USERS}"
        decision = self.decide(number, user_id)
        self.writer.submit([decision], lazy=True)
        await asyncio.sleep(0)
        request = self._request(number, user_id)
        ended = result_of(request, at_ms=wall_clock_ms(), status="completed", model="local")
        used = AttemptUsage(1000, "local", request.template, Usage(output_tokens=20))
        charged = self.state.pipeline.charge(request, used)
        costs_micros = sum(each.cost_micros for each in charged if isinstance(each, CostRecorded))
        ended = ended.model_copy(update={"output": "done", "cost_micros": costs_micros})
        settled = self.state.pipeline.settle(request, ended)
        events = [settled.result, *settled.events]
        for event in events:
            self.state.pipeline.fold(event)
        events += charged
        head = SessionUpdated(
            user_id=user_id,
            request_id=request.request_id,
            session_id=f"session-{number % SESSIONS}",
            at_ms=ended.at_ms,
            checkpoint_id=secrets.token_hex(18),
            checkpoint_offset_min=number,
            turn=1 + number // SESSIONS,
            created_at_ms=ended.at_ms,
        )
        await self.writer.submit([*events, head])

    def decide(self, number: int, user_id: str) -> Any:
        """Decide on a request, folded and not yet written."""
        request = self._request(number, user_id)
        context = MiddlewareContext(request, request.at_ms, "local", 100, 100)
        return self.state.pipeline.decide(context, generation=1)

    def _request(self, number: int, user_id: str) -> Any:
        asked = AgentRequest(user_id=user_id, request_id=f"request-{number}", input="hello")
        return asked.resolved(self.address, wall_clock_ms())


def _state() -> LaneState:
    return LaneState("chain", build_pipeline(_POLICY), hands_over=False)


async def _always() -> None:
    """Let every call be made."""


@asynccontextmanager
async def _writing(settings: Settings) -> AsyncIterator[_Writing]:
    await ensure_topics(settings, catalogue())
    committer = Committer(
        lambda number: guarded_producer(settings, f"{settings.namespace}-{number}"),
        producers=settings.transactional_producers,
        records_max=settings.commit_records_max,
        timeout_s=settings.commit_timeout_s,
        gather_s=settings.commit_gather_s,
        on_lost=lambda lost: print(f"lane lost: {lost}"),
    )
    reader = PartitionReader(settings)
    # What of a worker's services this side uses.
    used = {
        "clock_ms": wall_clock_ms,
        "peek_checkpoint": lambda *_: None,
        "metrics": LaneMetrics.declare(MetricsCollector()),
    }
    services = cast("LaneServices", SimpleNamespace(**used))
    stage: Stage = stages((), lambda: (build_pipeline(_POLICY),))[0]
    state = _state()
    context = LaneContext(settings, services, stage, 0, _always, CrashCounter(), print)
    writer = LaneWriter(context, state=state, committer=committer, reader=reader)
    snapshots = SnapshotWriter(
        settings,
        0,
        state=state,
        writer=writer,
        committer=committer,
        followed=dict,
        clock_ms=wall_clock_ms,
    )
    writer.watch(snapshots.consider)
    await committer.start()
    await reader.start()
    restored = await restore(state, reader, settings, partition=0, now_ms=wall_clock_ms())
    await writer.open(restored.ends)
    await writer.commit([LaneOpened(stage="chain", partition=0, generation=1, worker="bench")])
    snapshots.open(restored)
    address = Address(topic=settings.topic(REQUESTS_TOPIC.name), partition=0, offset=0)
    yield _Writing(state, writer, snapshots, address)
    snapshots.cancel()
    await committer.submit(())
    await committer.stop()
    await reader.stop()
