"""Reading several partitions as one: their records in the order of the brokers' clocks.

So whoever folds them holds what was open at one moment, not all that one of the topics says. Within
a partition the order is that of its offsets, whatever its clock says. The clocks of two leaders may
differ: by `lead_ms` for each place in the list, what is first in it is read ahead of the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from types import TracebackType
from typing import Any, Protocol

from aiokafka import TopicPartition

__all__ = ["Merge", "MergeConsumer", "Span", "Turn"]

_POLL_MS = 200
_READ_AHEAD_MAX = 250
_READ_AHEAD_MIN = 100
"""With fewer of a partition's records at hand it is asked for more, without waiting."""

_BATCH_MAX = 500


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a partition: all before `end`.

    From `from_offset` on, or from the first record that is not older than `since_ms`; with neither,
    from the log's beginning.
    """

    where: TopicPartition
    end: int
    from_offset: int | None = None
    since_ms: int | None = None


class Turn(Protocol):
    """Says when a reader may go on: several of them take turns. Entered while it reads."""

    def __enter__(self) -> None: ...  # noqa: D105
    def __exit__(  # noqa: D105
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None: ...

    async def wait(self) -> None:
        """Return once it may read and its records may be folded."""

    def stalled(self) -> None:
        """Say that nothing comes, so that others may go on meanwhile."""


class MergeConsumer(Protocol):
    """What is asked of a consumer here; the spans' partitions are assigned, and it stands there."""

    def pause(self, *partitions: TopicPartition) -> None: ...  # noqa: D102
    async def position(self, partition: TopicPartition) -> int: ...  # noqa: D102
    async def getmany(  # noqa: D102
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> Mapping[TopicPartition, Sequence[Any]]: ...


class _Source:
    """A partition's records that were read ahead, the first one last."""

    __slots__ = ("ahead", "end", "lead_ms", "where")

    def __init__(self, span: Span, lead_ms: int) -> None:
        self.where = span.where
        self.end = span.end
        self.lead_ms = lead_ms
        self.ahead: list[Any] = []

    def add(self, records: Sequence[Any]) -> None:
        """Take in what was fetched."""
        end = self.end
        self.ahead = [one for one in reversed(records) if one.offset < end] + self.ahead

    @property
    def first_ms(self) -> int:
        """The time by which the first record has its turn."""
        moment: int = self.ahead[-1].timestamp
        return moment + self.lead_ms


class Merge:
    """Reads spans as one. The consumer is assigned their partitions, and stands where they begin.

    `turn` is waited for before each read.
    """

    def __init__(
        self,
        consumer: MergeConsumer,
        spans: Sequence[Span],
        *,
        lead_ms: int = 0,
        turn: Turn | None = None,
        stall_timeout_s: float = 60.0,
    ) -> None:
        self._consumer = consumer
        self._sources = [_Source(one, place * lead_ms) for place, one in enumerate(spans)]
        self._reading = {one.where: one for one in self._sources}
        self._turn = turn
        self._stall_timeout_s = stall_timeout_s
        self._stalled_s = 0.0

    @property
    def behind(self) -> list[TopicPartition]:
        """The partitions of which records are to be waited for."""
        return [one.where for one in self._reading.values() if not one.ahead]

    async def batches(self) -> AsyncGenerator[list[Any], None]:
        """Yield the committed records in batches, in their order; at a tie the first span's.

        Raises `TimeoutError` where nothing came for too long: an open transaction hides the end of
        what is `behind`.
        """
        while True:
            if self._turn is not None:
                await self._turn.wait()
            await self._fill()
            if self.behind:
                if self._stalled_s > self._stall_timeout_s:
                    raise TimeoutError
                continue
            batch = self._next()
            if not batch:
                return
            yield batch
            await asyncio.sleep(0)  # a worker that restores serves what is open already

    async def _fill(self) -> None:
        """Read on where little is at hand; wait a moment for partitions of which nothing is."""
        hungry = [one for one in self._reading.values() if len(one.ahead) < _READ_AHEAD_MIN]
        if not hungry:
            return
        is_starved = bool(self.behind)
        began_s = asyncio.get_running_loop().time()
        fetched = await self._consumer.getmany(
            *(one.where for one in hungry),
            timeout_ms=_POLL_MS if is_starved else 0,
            max_records=_READ_AHEAD_MAX,
        )
        for where, records in fetched.items():
            self._reading[where].add(records)
        for one in hungry:
            if await self._consumer.position(one.where) >= one.end:
                del self._reading[one.where]
                self._consumer.pause(one.where)
        if fetched:
            self._stalled_s = 0.0
        elif is_starved:
            self._stalled_s += asyncio.get_running_loop().time() - began_s
            if self._turn is not None:
                self._turn.stalled()

    def _next(self) -> list[Any]:
        """Take what is next out of what was read ahead, as far as all of it is known."""
        sources = self._sources
        heap = [(one.first_ms, place) for place, one in enumerate(sources) if one.ahead]
        heapify(heap)
        batch: list[Any] = []
        while heap and len(batch) < _BATCH_MAX:
            place = heap[0][1]
            source = sources[place]
            batch.append(source.ahead.pop())
            if source.ahead:
                heapreplace(heap, (source.first_ms, place))
            elif source.where in self._reading:
                break  # what it has next is not known
            else:
                heappop(heap)
        return batch
