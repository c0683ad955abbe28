"""One view: a topic read by a named Faust agent and counted into a Faust table.

What is right after any crash, redelivery or rebalance rests on three rules:

- The table alone says where to read on (`position`); committed offsets are not asked. So the counts
  and the place in the topic cannot part, whichever write was the last to survive.
- Records are folded in memory and written to the table every half second, since Faust writes some
  3,000 records/s. A rebalance drops what was not written; the records come again.
- A record delivered for an earlier assignment is passed over: a fold begun anew from the table must
  not skip what lies between.
- A log that ends before the position was made anew, or truncated: it is counted from its beginning,
  but for what is no newer than what was counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from millstream.schemas.base import Event
from millstream.schemas.errors import Poison
from millstream.schemas.events import CostRecorded
from millstream.schemas.topics import TopicSpec
from millstream.streams.consumer.faust_app import App, assigned_partitions
from millstream.streams.views.aggregates import Aggregate, Stand, cost_of, counts_of, spend_of
from millstream.streams.views.table import ViewTable, others_key, total_key, user_key, users_prefix
from millstream.streams.wire.codec import decode

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

__all__ = ["Feed", "View"]

_NOTHING_SEEN = 2**63
USERS_PER_PARTITION_MAX = 100_000

log = structlog.get_logger(__name__)


class Feed(Protocol):
    """Something beside the table that is to see every event of a topic."""

    async def offer(self, event: Any, partition: int, offset: int) -> None:
        """Hand over an event."""
        ...

    def redo_from(self, partition: int) -> int | None:
        """Give the first offset that it still lacks, `None` if it lacks none."""
        ...

    def set_back(self, partition: int, read_from: int) -> None:
        """Take note that the partition's log was set back, and is read from this offset."""
        ...


@dataclass(slots=True)
class _Fold:
    """A partition's counts since it was assigned: ahead of the table until written.

    `written` is where it stood when it was written last, or read.
    """

    generation: int
    total: Aggregate
    users_known: int
    written: Stand
    users: dict[bytes, Aggregate] = field(default_factory=dict)
    dirty: bool = False
    seen: int = _NOTHING_SEEN


class View:
    """Counts a topic. Called on one event loop only.

    Of `known_models` each is counted by its name, however many others there are.
    """

    def __init__(
        self,
        app: App,
        settings: Settings,
        spec: TopicSpec,
        *,
        last_stage: str,
        feed: Feed | None,
        known_models: Iterable[str] = (),
    ) -> None:
        self.name = spec.name.replace("-", "_")
        self.topic = settings.topic(spec.name)
        self._app = app
        self._spec = spec
        self._last_stage = last_stage
        self._feed = feed
        self._kept = frozenset(map(cost_of, known_models))
        self._folds: dict[int, _Fold] = {}
        self._parsed: dict[int, tuple[bytes | None, Stand]] = {}
        # Partitions whose log was set back, and in which generation: records that were fetched of
        # the old log are still on their way.
        self._set_back: dict[int, int] = {}
        self._table = ViewTable.declare(app, self.name, partitions=settings.partitions)
        agent = app.agent(app.raw_topic(self.topic), name=self.name, concurrency=1)
        self.agent = agent(self._read)

    @property
    def changelog(self) -> str:
        """The topic that the table is restored from; it must exist before the app starts."""
        return str(self._table.changelog_topic_name)

    def position(self, partition: int) -> int:
        """Give the offset from which a partition is to be read on."""
        kept = self.counted(partition)
        return kept.position if kept is not None else 0

    def counted(self, partition: int) -> Aggregate | None:
        """Give what the table has of a partition, `None` if nothing was counted of it."""
        return self._table.read(total_key(partition))

    def stand(self, partition: int) -> Stand:
        """Give how far the table has a partition; it must be restored."""
        fold = self._folds.get(partition)
        if fold is not None and fold.generation == self._app.consumer_generation_id:
            return fold.written
        # Where nothing comes the same is asked twice a second: it is parsed once.
        value = self._table.get(total_key(partition))
        known = self._parsed.get(partition)
        if known is None or known[0] is not value:
            stand = (Aggregate() if value is None else Aggregate.from_bytes(value)).stand
            known = self._parsed[partition] = (value, stand)
        return known[1]

    def set_back(self, partition: int, read_from: int) -> None:
        """Say that a partition's log ends before `position`, and is read from this offset."""
        self._set_back[partition] = self._app.consumer_generation_id
        if self._feed is not None:
            self._feed.set_back(partition, read_from)

    def aggregates(self) -> Iterator[tuple[int, Aggregate]]:
        """Give what the table has of each partition that this worker reads now."""
        for partition in sorted(assigned_partitions(self._app, self.topic)):
            if (kept := self.counted(partition)) is not None:
                yield partition, kept

    def of_user(self, partition: int, tenant: str, user_id: str) -> Aggregate | None:
        """Give what the table has of a user whose home partition this worker reads."""
        return self._table.read(user_key(partition, tenant, user_id))

    def flush(self) -> None:
        """Write what was counted to the table; users first, for the total is the position."""
        if self._app.failure is not None or self._app.rebalancing:
            return
        generation = self._app.consumer_generation_id
        for partition, fold in tuple(self._folds.items()):
            redo_from = self._feed.redo_from(partition) if self._feed is not None else None
            if fold.generation != generation:
                del self._folds[partition]
                continue
            if not fold.dirty and fold.total.redo_from == redo_from:
                continue
            fold.total.redo_from = redo_from
            for key, aggregate in fold.users.items():
                self._table[key] = aggregate.to_bytes()
            self._table[total_key(partition)] = fold.total.to_bytes()
            fold.written = fold.total.stand
            fold.users.clear()
            fold.dirty = False

    async def _read(self, stream: Any) -> None:
        async for event in stream.events():
            if self._app.failure is None:
                await self._take(event.message)

    async def _take(self, message: Any) -> None:
        at_ms = round(message.timestamp * 1000)
        if message.value is None and self._spec.is_compacted:
            self._count(message, at_ms, {}, None)  # a key that is to be forgotten
            return
        try:
            event = decode(message, self._spec.event)
        except Poison as error:
            log.warning(
                "unreadable record",
                topic=message.topic,
                partition=message.partition,
                offset=message.offset,
                reason=str(error),
            )
            self._count(message, at_ms, {f"unreadable|{error.code}": 1}, None)
            return
        if self._feed is not None:
            await self._feed.offer(event, message.partition, message.offset)
        counts = counts_of(event, at_ms=at_ms, last_stage=self._last_stage)
        self._count(message, at_ms, counts, event)

    def _count(self, message: Any, at_ms: int, counts: dict[str, int], event: Event | None) -> None:
        """Fold one record; without an await, so that no rebalance comes in between."""
        if message.generation_id != self._app.consumer_generation_id:
            return
        fold = self._fold(message.partition, message.generation_id)
        if self._set_back and message.offset <= fold.seen:
            self._begin_log(fold, message)
        fold.seen = message.offset
        if fold.total.fold(message.offset, at_ms, counts, kept=self._kept):
            fold.dirty = True
            if isinstance(event, CostRecorded):
                key, user = self._user(fold, message.partition, event)
                # An attempt has a record for each of its calls.
                runs = {"runs|": 1} if event.call == 0 else {}
                user.follow(fold.total.log)
                user.fold(message.offset, at_ms, {**runs, **spend_of(event)}, kept=self._kept)
                fold.users[key] = user

    def _begin_log(self, fold: _Fold, message: Any) -> None:
        """Go on with the new log, if this is its first record: offsets have fallen."""
        if self._set_back.pop(message.partition, None) == fold.generation:
            fold.total.set_back(message.offset)

    def _fold(self, partition: int, generation: int) -> _Fold:
        fold = self._folds.get(partition)
        if fold is None or fold.generation != generation:
            total = self._table.read(total_key(partition)) or Aggregate()
            prefix = users_prefix(partition)
            users = sum(key.startswith(prefix) for key in self._table)
            fold = self._folds[partition] = _Fold(generation, total, users, total.stand)
        return fold

    def _user(self, fold: _Fold, partition: int, event: CostRecorded) -> tuple[bytes, Aggregate]:
        key = user_key(partition, event.tenant, event.user_id)
        kept = fold.users.get(key) or self._table.read(key)
        if kept is not None:
            return key, kept
        if fold.users_known < USERS_PER_PARTITION_MAX:
            fold.users_known += 1
            return key, Aggregate()
        key = others_key(partition)
        return key, fold.users.get(key) or self._table.read(key) or Aggregate()
