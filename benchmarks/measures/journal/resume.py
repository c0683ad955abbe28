"""How soon a long run goes on that another worker had brought to its last step.

A run of 500 steps of 500 bytes is held in step 499, its worker is killed with SIGKILL, and another
one is started. Its time is that from its lane, which knows where the journals stand, to step 499
being made: the journal is read, 998 recorded answers go through the agent, and their tokens and
steps are written anew.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from benchmarks.report import Figure
from benchmarks.sides import deployment, worker_side
from millstream.schemas.events import AgentRequest
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.topics import JOURNAL, LANES
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode

__all__ = ["run"]

STEPS = 500
STEP_BYTES = 500
HELD_AT = STEPS - 1
RESUME_S_MAX = 2.0
TIMEOUT_S = 180.0
_POLL_S = 0.02


def run(settings: Settings) -> Iterator[Figure]:
    """Measure. Raises `RuntimeError` if a process fails, `TimeoutError` if one is too slow."""
    folder = settings.data_dir / "steps-resume"
    folder.mkdir(parents=True, exist_ok=True)
    own = deployment(settings, partitions=1)
    program = ["-m", "benchmarks.programs.steps_worker", str(folder)]
    with ExitStack() as stack:
        first = worker_side("resume_first", own, stack, program=program)
        began_s = time.perf_counter()
        asyncio.run(_ask(own))
        _held(folder, 1)
        took_s = time.perf_counter() - began_s
        os.kill(first.pid, signal.SIGKILL)
        worker_side("resume_second", own, stack, program=program)
        at_ms = _held(folder, 2)
    lanes, steps, size = asyncio.run(_read(own))
    resumed_s = (at_ms - max(lane.at_ms for lane in lanes)) / 1000
    yield Figure(f"journal_run_of_{STEPS}_steps", took_s, "s")
    yield Figure(f"journal_of_{STEPS}_steps_records", steps, "records")
    yield Figure(f"journal_of_{STEPS}_steps_kb", size / 1000, "kB")
    yield Figure(f"journal_resume_at_{HELD_AT}", resumed_s, "s", RESUME_S_MAX, at_most=True)


async def _ask(settings: Settings) -> None:
    text = f"steps: {STEPS} of {STEP_BYTES}, held at {HELD_AT}"
    async with KafkaBus(settings) as bus:
        await bus.publish(AgentRequest(user_id="ada", request_id="long", input=text))


def _held(folder: Path, times: int) -> float:
    """Wait until the step is held, and give since when, in milliseconds since the epoch."""
    until_s = time.monotonic() + TIMEOUT_S
    log = folder / "held"
    while time.monotonic() < until_s:
        lines = log.read_text("ascii").splitlines() if log.exists() else []
        if len(lines) >= times:
            step, at_ns = map(int, lines[times - 1].split())
            if step != HELD_AT:
                message = f"step {step} is held, not {HELD_AT}"
                raise RuntimeError(message)
            return at_ns / 1e6
        time.sleep(_POLL_S)
    message = f"step {HELD_AT} was not reached {times} times within {TIMEOUT_S:g} s"
    raise TimeoutError(message)


async def _read(settings: Settings) -> tuple[list[LaneOpened], int, int]:
    """Give the lanes that were opened, and the records and bytes of the journal."""
    reader = PartitionReader(settings)
    await reader.start()
    try:
        lanes = [TopicPartition(settings.topic(LANES.name), 0)]
        opened = [decode(one, LaneOpened) async for one in _all(reader, lanes)]
        journal = [TopicPartition(settings.topic(JOURNAL.name), 0)]
        sizes = [len(one.value) async for one in _all(reader, journal)]
    finally:
        await reader.stop()
    return opened, len(sizes), sum(sizes)


async def _all(reader: PartitionReader, where: list[TopicPartition]) -> AsyncIterator[Any]:
    async for record in reader.read(await reader.high_watermarks(where)):
        yield record
