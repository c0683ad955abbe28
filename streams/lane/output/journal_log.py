"""Reading journals back: one pass serves all runs that wait for theirs.

Whoever takes over a partition goes on with all of its runs at once, whose records lie among each
other: read run by run, each record would be fetched as often as there are runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from aiokafka import TopicPartition
from pydantic_core import from_json

from millstream.schemas.dead_letters import BatchUnreadable
from millstream.schemas.errors import LaneLost, Poison, ServiceUnavailable
from millstream.schemas.journal.errors import JournalGone, JournalUnreadable
from millstream.schemas.journal.steps import JournalStep
from millstream.streams.broker.compacted import refuse_newer
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.output.checkpoint_log import NEAR_RECORDS
from millstream.streams.lane.state.journals import OpenJournal
from millstream.streams.wire.codec import decode
from millstream.streams.wire.keys import RequestKey, request_key

__all__ = ["JournalLog"]


@dataclass(slots=True, eq=False)
class _Want:
    key: RequestKey
    offsets: frozenset[int]
    found: dict[int, JournalStep] = field(default_factory=dict)
    is_settled: bool = False


class JournalLog:
    """The journals of one partition."""

    def __init__(self, reader: PartitionReader, where: TopicPartition) -> None:
        self._reader = reader
        self._where = where
        self._wanted: list[_Want] = []

    async def load(self, key: RequestKey, journal: OpenJournal) -> tuple[JournalStep, ...]:
        """Give a run's steps in their order, each of them whole.

        Raises as `records`, and `JournalUnreadable` where a step is not whole.
        """
        return tuple(map(_joined, _whole_steps(await self.records(key, journal))))

    async def records(self, key: RequestKey, journal: OpenJournal) -> tuple[JournalStep, ...]:
        """Give the records of a run's journal in their order, each step's parts by themselves.

        Raises `JournalGone` where some are not there, or are not to be read, and `LaneLost` if the
        log cannot be read now.
        """
        want = _Want(key, frozenset(journal.offsets))
        self._wanted.append(want)
        try:
            async with self._reader.lock:
                if not want.is_settled:  # by whoever had the lock before
                    await self._look_for(tuple(self._wanted))
        except ServiceUnavailable as error:
            raise LaneLost(f"a journal cannot be read: {error}") from error
        finally:
            self._wanted.remove(want)
        return _records(want, journal)

    async def find(self, key: RequestKey, from_offset: int) -> OpenJournal:
        """Find where a run's journal stands, which begins at an offset: all behind it is read.

        For one that is older than what the lane has read of the topic. Raises `LaneLost`.
        """
        found = OpenJournal()
        try:
            async with self._reader.lock:
                ends = await self._reader.high_watermarks([self._where])
                stretch = self._reader.read(ends, from_offset=from_offset)
                async with aclosing(stretch) as records:
                    async for record in records:
                        if (step := _own(record, key)) is not None:
                            found.take(step)
                            found.offsets.append(record.offset)
        except ServiceUnavailable as error:
            raise LaneLost(f"a journal cannot be read: {error}") from error
        return found

    async def _look_for(self, wants: Sequence[_Want]) -> None:
        # Of a run that has its turn while its journal is written anew there are two.
        by_offset = defaultdict[int, list[_Want]](list)
        for want in wants:
            for offset in want.offsets:
                by_offset[offset].append(want)
        for first, last in _stretches(sorted(by_offset)):
            stretch = self._reader.read({self._where: last + 1}, from_offset=first)
            async with aclosing(stretch) as records:
                async for record in records:
                    for want in by_offset.get(record.offset, ()):
                        if (step := _own(record, want.key)) is not None:
                            want.found[record.offset] = step
        for want in wants:
            want.is_settled = True


def _own(record: Any, key: RequestKey) -> JournalStep | None:
    """Read a step of a run; `LaneOutdated` for one of a newer version: a newer worker goes on.

    One in a batch that is corrupt is gone: its run fails, and no other.
    """
    try:
        step = decode(record, JournalStep)
    except BatchUnreadable:
        return None
    except Poison as poison:
        refuse_newer(record, poison)
        return None
    return step if request_key(step) == key else None


def _stretches(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Give the first and last offset of each stretch without a wide gap."""
    if not offsets:
        return
    first = offsets[0]
    for before, offset in pairwise(offsets):
        if offset > before + NEAR_RECORDS:
            yield first, before
            first = offset
    yield first, offsets[-1]


def _records(want: _Want, journal: OpenJournal) -> tuple[JournalStep, ...]:
    expected, part, records = 0, 0, list[JournalStep]()
    for offset in sorted(want.found):
        step = want.found[offset]
        if (step.step, step.part) < (expected, part):
            continue  # written again: the first one stands
        if (step.step, step.part) != (expected, part):
            break
        records.append(step)
        part += 1
        if part == step.parts:
            expected, part = expected + 1, 0
    if expected != journal.steps:
        message = (
            f"of {journal.steps} steps of the run's journal those from {expected} on cannot be "
            "read: retention deleted them, or they were altered"
        )
        raise JournalGone(message)
    return tuple(records[: len(records) - part])


def _whole_steps(records: Sequence[JournalStep]) -> Iterator[Sequence[JournalStep]]:
    at = 0
    while at < len(records):
        yield records[at : at + records[at].parts]
        at += records[at].parts


def _joined(parts: Sequence[JournalStep]) -> JournalStep:
    if len(parts) == 1:
        return parts[0]
    text = "".join(one.text or "" for one in parts)
    try:
        # Not by `orjson`, which makes a float of an integer beyond 64 bits.
        content = from_json(text)
    except ValueError as error:
        message = (
            f"step {parts[0].step} of the run's journal cannot be read: its {len(parts)} parts "
            f"together are no JSON: {error}"
        )
        raise JournalUnreadable(message) from error
    return parts[0].model_copy(update={"content": content, "text": None})
