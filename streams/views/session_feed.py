"""Feeds the session view from its topics, and makes up for the time the view was away.

A record that the view does not take is not waited for: its offset is remembered, the topic is read
on, and once the view answers again the stretch from there is read from Kafka a second time. Nothing
is buffered, so that a long outage costs no memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from millstream.agents.sessions.manager import SessionStore
from millstream.schemas.errors import ForeignKey, LaneLost, Poison, ServiceUnavailable
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import (
    CHECKPOINTS,
    RESULTS,
    SESSION_STATES,
    SESSIONS,
    TopicSpec,
)
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.telemetry.outages import REDIS
from millstream.streams.wire.codec import EventT, decode

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

__all__ = ["SessionFeed", "feeds_of"]

Put = Callable[[Any, int], Awaitable[bool]]
"""Hands an event and its offset to the view."""

_BACKOFF_MIN_S = 0.1
_BACKOFF_MAX_S = 5.0

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


class SessionFeed(Generic[EventT]):
    """Hands a topic's events to `put`, which is idempotent and guarded by the offset."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        event_type: type[EventT],
        put: Callable[[EventT, int], Awaitable[bool]],
        *,
        on_foreign_key: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_foreign_key = on_foreign_key
        self._settings = settings
        self._topic = topic
        self._event_type = event_type
        self._put = put
        self._redo_from: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._behind = asyncio.Event()

    async def offer(self, event: EventT, partition: int, offset: int) -> None:
        """Hand over an event, or remember that the view lacks it."""
        self._ends[partition] = offset + 1
        if partition in self._redo_from:
            return
        try:
            await self._put_unless_foreign(event, offset)
        except ServiceUnavailable as error:
            log.warning("session view is away", reason=str(error), outage=REDIS)
            self._redo_from.setdefault(partition, offset)
            self._behind.set()

    def redo_from(self, partition: int) -> int | None:
        """Give the first offset that the view lacks, `None`: it lacks none."""
        return self._redo_from.get(partition)

    def set_back(self, partition: int, read_from: int) -> None:
        """Take note that a partition's log was set back: what the old one had is gone."""
        if partition in self._redo_from:
            self._redo_from[partition] = self._ends[partition] = read_from

    @property
    def partitions_behind(self) -> int:
        """How many partitions have records that the view lacks."""
        return len(self._redo_from)

    def keep(self, partitions: Iterable[int]) -> None:
        """Forget all but these partitions: another worker makes up for them."""
        kept = set(partitions)
        for partition in set(self._redo_from) - kept:
            del self._redo_from[partition]

    async def heal(self) -> None:
        """Make up for what the view lacks, whenever it lacks something, until cancelled."""
        backoff_s = _BACKOFF_MIN_S
        while True:
            await self._behind.wait()
            try:
                await self._catch_up()
            except (ServiceUnavailable, LaneLost, KafkaError) as error:
                log.warning("session view is still behind", reason=str(error), outage=REDIS)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _BACKOFF_MAX_S)
            else:
                backoff_s = _BACKOFF_MIN_S
                log.debug("session view has caught up", topic=self._topic)

    async def _catch_up(self) -> None:
        reader = PartitionReader(self._settings)
        try:
            await reader.start()
            while self._redo_from:
                await self._stretch(reader, next(iter(self._redo_from)))
            self._behind.clear()
        finally:
            await reader.stop()

    async def _stretch(self, reader: PartitionReader, partition: int) -> None:
        end = self._ends[partition]
        begin = self._redo_from[partition]
        ends = {TopicPartition(self._topic, partition): end}
        async with aclosing(reader.read(ends, from_offset=begin)) as records:
            async for record in records:
                await self._redo(record)
                if partition not in self._redo_from:
                    return  # taken away meanwhile
                self._redo_from[partition] = record.offset + 1
        # No await from here on: what was offered meanwhile is either in `_ends` or not yet taken.
        if self._ends[partition] == end:
            self._redo_from.pop(partition, None)
        else:
            self._redo_from[partition] = end

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
