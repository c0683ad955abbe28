"""Reading the logs that a lane folds, as one: what is in memory at once is what was open then.

Topic after topic, all decisions of a day would be there before the first result. So the logs are
merged by the brokers' clocks, and folds take what comes: a result before its decision, where the
clock of one broker is ahead of another's by more than `LEAD_MS`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

from aiokafka import TopicPartition

from millstream.schemas.base import Event
from millstream.schemas.errors import Poison
from millstream.schemas.topics import TopicSpec
from millstream.streams.broker.compacted import pass_over
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.reading.merging import Span, Turn
from millstream.streams.lane.state.folds import Handler, Refold
from millstream.streams.wire.codec import decode

__all__ = ["LEAD_MS", "Logs", "Take", "read_event"]

Take = Callable[[Event, int], None]
"""Takes an event that was read back, and the offset of its record."""

LEAD_MS = 1000
"""A topic is read so far ahead of those that tell what followed: brokers' clocks differ."""


class Logs:
    """The logs of one lane, as a restore reads them.

    `at` gives the lane's partition of each topic, by the topic's name without the namespace.
    """

    def __init__(
        self, reader: PartitionReader, at: Mapping[str, TopicPartition], turn: Turn | None = None
    ) -> None:
        self._reader = reader
        self._at = at
        self._turn = turn
        self.records = 0
        """How many were read."""

    async def fold(self, spans: Iterable[tuple[TopicSpec, Span]], take: Take) -> None:
        """Read stretches as one and have each event taken. Raises as the reader does.

        Of two that are equally old the one of the earlier span comes first. Raises `LaneOutdated`
        for a record of a newer version.
        """
        given = tuple(spans)
        kinds = {span.where.topic: spec.event for spec, span in given}
        with self._turn or nullcontext():
            async for batch in self._reader.read_in_order(
                [span for _, span in given], lead_ms=LEAD_MS, turn=self._turn
            ):
                self.records += len(batch)
                for record in batch:
                    event = read_event(record, kinds[record.topic])
                    if event is not None:
                        take(event, record.offset)

    async def fold_anew(
        self,
        refolds: Iterable[Refold],
        specs: Iterable[TopicSpec],
        ends: Mapping[str, int],
        *,
        since_ms: int,
    ) -> None:
        """Fold what a snapshot does not serve, up to where it begins: `ends`, by topic.

        `specs` are the topics that may be read, in their order. What comes next is of `since_ms`.
        """
        handlers: defaultdict[type[Event], list[Handler]] = defaultdict(list)
        history_ms: defaultdict[type[Event], int] = defaultdict(int)
        for refold in refolds:
            for kind, handler in refold.fold.items():
                handlers[kind].append(handler)
                history_ms[kind] = max(history_ms[kind], refold.history_ms)

        def take(event: Event, _offset: int) -> None:
            for handler in handlers[type(event)]:
                handler(event)

        spans = [
            (
                spec,
                Span(
                    self._at[spec.name],
                    ends[spec.name],
                    since_ms=since_ms - history_ms[spec.event],
                ),
            )
            for spec in specs
            if spec.event in handlers
        ]
        if spans:
            await self.fold(spans, take)


def read_event(record: Any, kind: type[Event]) -> Event | None:
    """Read a record that was committed, `None` for a tombstone and for a foreign record.

    Raises `LaneOutdated` for one of a newer version.
    """
    if record.value is None:
        return None
    try:
        return decode(record, kind)
    except Poison as poison:
        pass_over(record, poison)  # it decides nothing
        return None
