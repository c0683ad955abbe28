"""Feeds the session view from its topics, and makes up for the time the view was away.

A record that the view does not take is not waited for: its offset is remembered, the topic is read
on, and once the view answers again the stretch from there is read from Kafka a second time. So is
what a view that was emptied has lost. Nothing is buffered, so that a long outage costs no memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Generic

import structlog
from aiokafka import TopicPartition

from millstream.agents.sessions.manager import SessionStore
from millstream.schemas.errors import ForeignKey, Poison, ServiceUnavailable
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import (
    CHECKPOINTS,
    RESULTS,
    SESSION_STATES,
    SESSIONS,
    TopicSpec,
)
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.sessions.in_redis.marks import Stand
from millstream.streams.telemetry.outages import REDIS
from millstream.streams.wire.codec import EventT, decode

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

__all__ = ["SessionFeed", "batches", "feeds_of"]

Put = Callable[[Any, int], Awaitable[bool]]
"""Hands an event and its offset to the view."""

BATCH: Final = 256
"""Records that are put side by side: what guards each of them lets their order be any."""

log = structlog.get_logger(__name__)


def feeds_of(store: SessionStore) -> tuple[tuple[TopicSpec, Put], ...]:
    """Give the topics that the view is made of, and what takes their events.

    What became of sessions comes first: what a deleted one had is then never put.
    """

    async def put_state(event: SessionState, _offset: int) -> bool:
        return await store.put_state(event)  # guarded by its revision

    return (
        (SESSION_STATES, put_state),
        (SESSIONS, store.put_head),
        (RESULTS, store.note_result),
        (CHECKPOINTS, store.put_checkpoint),
    )


async def batches(
    reader: PartitionReader, where: TopicPartition, begin: int, end: int
) -> AsyncGenerator[tuple[Sequence[Any], int], None]:
    """Read a stretch of a topic; give its records by the batch, and the offset behind each."""
    batch: list[Any] = []
    async with aclosing(reader.read({where: end}, from_offset=begin)) as records:
        async for record in records:
            batch.append(record)
            if len(batch) == BATCH:
                yield batch, record.offset + 1
                batch = []
    if batch:
        yield batch, end


class SessionFeed(Generic[EventT]):
    """Hands a topic's events to `put`, which is idempotent and guarded by the offset.

    `on_behind` is called when the view begins to lack something.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        event_type: type[EventT],
        put: Callable[[EventT, int], Awaitable[bool]],
        *,
        on_foreign_key: Callable[[], object] = lambda: None,
        on_behind: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_foreign_key = on_foreign_key
        self._on_behind = on_behind
        self._settings = settings
        self._topic = topic
        self._event_type = event_type
        self._put = put
        self._answers = True
        self._trouble: str | None = None
        self._redo_from: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        # The first that was offered and not put since a stretch was begun, hence not part of it.
        self._missed: dict[int, int] = {}

    async def offer(self, event: EventT, partition: int, offset: int) -> None:
        """Hand over an event, or remember that the view lacks it."""
        self._ends[partition] = offset + 1
        if partition in self._redo_from and not self._answers:
            self._missed.setdefault(partition, offset)
            return
        try:
            await self._put_unless_foreign(event, offset)
        except ServiceUnavailable as error:
            log.warning("session view is away", reason=str(error), outage=REDIS)
            self._answers, self._trouble = False, str(error)
            self._missed.setdefault(partition, offset)
            self._redo_from.setdefault(partition, offset)
            self._on_behind()

    def redo_from(self, partition: int) -> int | None:
        """Give the first offset that the view lacks, `None`: it lacks none."""
        return self._redo_from.get(partition)

    def stand(self, partition: int, position: int) -> Stand:
        """Give up to where the view has a partition; `position`: where the feed began with it."""
        end = self._ends.get(partition, position)
        redo_from = self._redo_from.get(partition)
        return Stand(end) if redo_from is None else Stand(redo_from, end)

    def lost(self, partition: int, offset: int, end: int) -> None:
        """Take note that the view has nothing more of what lies from an offset on, up to `end`."""
        self._ends.setdefault(partition, end)
        self._redo_from[partition] = min(offset, self._redo_from.get(partition, offset))
        self._on_behind()

    def set_back(self, partition: int, read_from: int) -> None:
        """Take note that a partition's log was set back: what the old one had is gone."""
        self._ends[partition] = read_from
        if partition in self._redo_from:
            self._redo_from[partition] = read_from

    @property
    def partitions_behind(self) -> int:
        """How many partitions have records that the view lacks."""
        return len(self._redo_from)

    @property
    def trouble(self) -> str | None:
        """Why the view does not take what it lacks, `None` where it does, or lacks nothing."""
        return self._trouble if self._redo_from else None

    def keep(self, partitions: Iterable[int]) -> None:
        """Forget all but these partitions: another worker makes up for them."""
        kept = set(partitions)
        for partition in self._ends.keys() - kept:
            del self._ends[partition]
            self._redo_from.pop(partition, None)

    async def catch_up(self, reader: PartitionReader) -> None:
        """Make up for what the view lacks now.

        Raises `ServiceUnavailable` where Redis or Kafka do not answer, and `LaneLost` where an open
        transaction holds back what is to be read.
        """
        while self._redo_from:
            await self._stretch(reader, next(iter(self._redo_from)))

    async def _stretch(self, reader: PartitionReader, partition: int) -> None:
        at, end = self._redo_from[partition], self._ends[partition]
        self._missed.pop(partition, None)
        where = TopicPartition(self._topic, partition)
        async with aclosing(batches(reader, where, at, end)) as found:
            async for batch, behind in found:
                await asyncio.gather(*map(self._redo, batch))
                self._answers, self._trouble = True, None
                if self._redo_from.get(partition) != at:
                    return  # taken away, set back, or more was lost meanwhile
                self._redo_from[partition] = at = behind
        if self._redo_from.get(partition) != at:
            return
        # No await from here on: what was offered meanwhile is in the view, or the first missed.
        missed = self._missed.pop(partition, None)
        if missed is None:
            del self._redo_from[partition]
        else:
            self._redo_from[partition] = missed

    async def _redo(self, record: Any) -> None:
        try:
            event = decode(record, self._event_type)
        except Poison:
            return  # counted and logged where it was read first
        await self._put_unless_foreign(event, record.offset)

    async def _put_unless_foreign(self, event: EventT, offset: int) -> None:
        """Hand over an event; what a key of another type cannot take is passed over, and told."""
        try:
            await self._put(event, offset)
        except ForeignKey as error:
            self._on_foreign_key()
            log.warning("session view lacks a session", topic=self._topic, reason=str(error))
