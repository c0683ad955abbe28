"""How many bytes the journal of a run takes at the broker, over the text of its messages.

A run of 100 steps of 2,000 bytes of English, by a tool that changes nothing, and by one with an
effect, whose calls are written down before they are made. The size is that of the partition's
segments: batches, headers and the markers of transactions are in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from benchmarks.report import Figure
from benchmarks.sides import deployment, worker_side
from millstream.schemas.events import AgentRequest
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.topics import JOURNAL, RESULTS
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode

__all__ = ["run"]

STEPS = 100
STEP_BYTES = 2_000
OVER_TEXT_MAX = 1.5
TIMEOUT_S = 120.0
_POLL_S = 0.1


def run(settings: Settings) -> Iterator[Figure]:
    """Measure. Raises `TimeoutError` if the runs take too long.

    Gives nothing where the broker is not started here, and its files are elsewhere.
    """
    for name, how in (("read_only", ""), ("with_effect", ", put")):
        folder = settings.data_dir / f"steps-size-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        own = deployment(settings, partitions=1)
        with ExitStack() as stack:
            program = ["-m", "benchmarks.programs.steps_worker", str(folder)]
            worker_side(f"size_{name}", own, stack, program=program)
            asyncio.run(_ask(own, f"steps: {STEPS} of {STEP_BYTES}{how}"))
            until_s = time.monotonic() + TIMEOUT_S
            while not asyncio.run(_records(own, RESULTS.name)):
                if time.monotonic() > until_s:
                    message = f"{STEPS} steps took longer than {TIMEOUT_S:g} s"
                    raise TimeoutError(message)
                time.sleep(_POLL_S)
            steps = [decode(one, JournalStep) for one in asyncio.run(_records(own, JOURNAL.name))]
        text_bytes = sum(_text_bytes(step.content) for step in steps)
        size = _size(settings.data_dir, own.topic(JOURNAL.name))
        if size:
            yield Figure(f"journal_{name}_step", size / STEPS, "bytes")
            over = size / text_bytes
            yield Figure(f"journal_{name}_over_text", over, "times", OVER_TEXT_MAX, at_most=True)


def _size(folder: Path, topic: str) -> int:
    return sum(one.stat().st_size for one in folder.rglob(f"{topic}-0/*.log"))


async def _ask(settings: Settings, text: str) -> None:
    async with KafkaBus(settings) as bus:
        await bus.publish(AgentRequest(user_id="ada", request_id="long", input=text))


async def _records(settings: Settings, name: str) -> list[Any]:
    reader = PartitionReader(settings)
    await reader.start()
    try:
        ends = await reader.high_watermarks([TopicPartition(settings.topic(name), 0)])
        return [record async for record in reader.read(ends)]
    finally:
        await reader.stop()


def _text_bytes(content: Any) -> int:
    """Give the bytes of what a message says, and of the arguments that it calls with."""
    if isinstance(content, dict):
        own = sum(len(str(content[one]).encode()) for one in ("content", "args") if one in content)
        rest = (value for name, value in content.items() if name not in {"content", "args"})
        return own + sum(map(_text_bytes, rest))
    return sum(map(_text_bytes, content)) if isinstance(content, list) else 0
