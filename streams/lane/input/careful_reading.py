"""What counts against a record that ends its worker as it is read, before anything is committed.

An attempt at a run leaves a mark before it begins; a record that kills whoever parses it would
leave none, and be read again for ever. So a lane tells, as it takes the first record that stood
there when it opened, where it begins to read. Where the last owners all began at the same record,
it takes those records one by one, each told before it is parsed, and buries the one that the last
owners were lost at. What a flood left unread is acknowledged by then, and read again by itself:
that is told apart, as if it were a topic of its own. All lanes of a worker are lost together, so
one of them at a time reads so: else what another one reads would be held responsible, too.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from millstream.schemas.base import TRIES_MAX, Address
from millstream.schemas.dead_letters import Unserviceable
from millstream.schemas.lane_events import LaneOpened, TopicReading
from millstream.schemas.topics import DEFERRED
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.base.window import Entry
from millstream.streams.wire.records import InputRecord

__all__ = ["CAREFUL_FROM", "DEATHS_MAX", "CarefulReading"]

log = structlog.get_logger(__name__)

CAREFUL_FROM = 3
"""From so many openings in a row at one record on, records are read one by one."""

DEATHS_MAX = 2
"""A record at which so many owners were lost as they read it alone is read no more."""

Take = Callable[[Entry[InputRecord], bool], None]
"""Takes a record on its way; the flag says whether many others wait behind it."""


@dataclass(slots=True)
class _Topic:
    """Records of one topic that stood there when the lane opened, and wait to be told.

    All before `old_until` did. `left` is how many more are looked at; the owners before can have
    had no more of them in hand. `before` is what they told.
    """

    name: str
    old_until: int
    left: int
    before: TopicReading | None
    told: TopicReading | None = None
    waiting: deque[tuple[Entry[InputRecord], bool]] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class CarefulReading:
    """Hands records on to `take`, in order; at once where nothing is held against them.

    `tell` commits a record of the lane, `bury` writes a dead letter, `is_buried` tells whether a
    record has one, and `ended` hears of the tasks that have ended.
    """

    def __init__(
        self,
        context: LaneContext,
        *,
        tell: Callable[[LaneOpened], Awaitable[object]],
        take: Take,
        bury: Callable[[Entry[InputRecord], Unserviceable], None],
        is_buried: Callable[[Address], bool],
        ended: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._context = context
        self._tell = tell
        self._take = take
        self._bury = bury
        self._is_buried = is_buried
        self._ended = ended
        self._opened: LaneOpened | None = None
        self._topics: dict[str, _Topic] = {}
        self._left: _Topic | None = None
        self._alone = context.services.reading_alone
        self._alone_with: _Topic | None = None
        self._draining = False

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """What is under way here."""
        return {one.task for one in self._topics.values() if one.task is not None}

    def open(
        self,
        opened: LaneOpened,
        before: Mapping[str, TopicReading],
        old_until: Mapping[str, int],
    ) -> None:
        """Begin: `opened` is what the lane has told, `before` what the owner before it had.

        `old_until` gives for each topic, without the namespace, where it ended as the lane opened:
        first for the one of which records may have been left unread.
        """
        self._opened = opened
        self._topics = {
            self._context.settings.topic(name): _Topic(
                name, end, self._context.settings.runs_in_flight_max, before.get(name)
            )
            for name, end in old_until.items()
        }
        # However many: who reads them comes by those that are done, and by other users'.
        end, name = next(iter(old_until.values()), 0), DEFERRED.name
        self._left = _Topic(name, end, sys.maxsize, before.get(name))

    def drain(self) -> None:
        """Hand no more on: what waits here is left to the next owner."""
        self._draining = True

    def serve(self, entry: Entry[InputRecord], *, is_behind: bool) -> None:
        """Hand a record on, now or once it is told that it is read. Called in offset order."""
        topic = self._topics.get(entry.record.topic)
        if topic is None or (topic.task is None and self._is_new(topic, entry)):
            self._take(entry, is_behind)
            return
        topic.waiting.append((entry, is_behind))
        if topic.task is None:
            topic.task = asyncio.create_task(self._read(topic), name=f"reading {topic.name}")
            topic.task.add_done_callback(self._ended)

    def looks_at(self, offset: int) -> bool:
        """Tell whether `may_read` is to be asked of a record that was left unread."""
        left = self._left
        return left is not None and left.left > 0 and offset < left.old_until

    @property
    def _is_input_careful(self) -> bool:
        """Whether records of the input are read one by one, at the same time as what was left."""
        topic = next(iter(self._topics.values()))
        if topic.told is not None:
            return topic.told.openings >= CAREFUL_FROM
        return topic.before is not None and topic.before.openings + 1 >= CAREFUL_FROM

    async def may_read(self, entry: Entry[InputRecord]) -> bool:
        """Tell that a record is read that was left unread, before anything of it is.

        False: the last owners were lost at it. It is buried, and not to be read.
        """
        left = self._left
        if left is None or self._is_new(left, entry):
            return True
        told = left.told or await self._begin(left, entry.offset)
        if told.openings < CAREFUL_FROM and not self._is_input_careful:
            left.left = 0
            return True
        if self._alone_with is not left:
            await self._alone.acquire()
            self._alone_with = left
        return await self._may_take(left, told, entry)

    async def were_read(self) -> None:
        """Tell that whatever ends the lane from now on is not held against what was left unread."""
        left = self._left
        if left is not None and self._alone_with is left and left.told is not None:
            await self._say(left, left.told)
            self.close()

    def close(self) -> None:
        """Let others read alone; called once nothing reads here any more."""
        # Not where it fails: nobody else may be told meanwhile to have read at that moment.
        if self._alone_with is not None:
            self._alone_with = None
            self._alone.release()

    @staticmethod
    def _is_new(topic: _Topic, entry: Entry[InputRecord]) -> bool:
        return not topic.left or entry.offset >= topic.old_until

    async def _read(self, topic: _Topic) -> None:
        told = topic.told or await self._begin(topic, topic.waiting[0][0].offset)
        if told.openings < CAREFUL_FROM:
            topic.left = 0
        while topic.waiting and not self._draining:
            if told.openings < CAREFUL_FROM:
                self._take(*topic.waiting.popleft())
                continue
            await self._alone.acquire()
            self._alone_with = topic
            while topic.waiting and not self._draining:
                entry, is_behind = topic.waiting.popleft()
                if self._is_new(topic, entry) or await self._may_take(topic, told, entry):
                    self._take(entry, is_behind)
            await self._say(topic, told)  # nothing is held against the last one
            self.close()
        topic.task = None

    async def _begin(self, topic: _Topic, first: int) -> TopicReading:
        """Tell where the lane begins, and how many before it did."""
        before = topic.before
        told = TopicReading(begins=first, openings=1)
        # What came before the record that was read last is done meanwhile, and that may kill again.
        if before is not None and (before.begins == first or (before.alone or -1) >= first):
            openings = min(before.openings + 1, TRIES_MAX)
            told = before.model_copy(update={"begins": first, "openings": openings})
        if told.openings == CAREFUL_FROM:
            log.warning(
                "the last owners were all lost behind one record: records are read one by one",
                topic=topic.name,
                partition=self._context.partition,
                offset=first,
            )
        await self._say(topic, told)
        topic.told = told.model_copy(update={"alone": None, "deaths": 0})
        return topic.told

    async def _may_take(self, topic: _Topic, told: TopicReading, entry: Entry[InputRecord]) -> bool:
        """Tell that a record is read, unless that has ended its owners: then it is buried."""
        before = topic.before
        topic.left -= 1
        if self._is_buried(entry.record.address):  # and was not acknowledged
            entry.finish()
            return False
        deaths = before.deaths if before is not None and before.alone == entry.offset else 0
        if deaths >= DEATHS_MAX:
            problem = f"{deaths} workers were lost as they read it, and nothing else"
            self._bury(entry, Unserviceable(problem))
            return False
        update = {"alone": entry.offset, "deaths": deaths + 1}
        await self._say(topic, told.model_copy(update=update))
        return True

    async def _say(self, topic: _Topic, reading: TopicReading) -> None:
        assert self._opened is not None  # noqa: S101  nothing is served before it is open
        said = {**(self._opened.reading or {}), topic.name: reading}
        self._opened = self._opened.model_copy(update={"reading": said})
        await self._tell(self._opened)
