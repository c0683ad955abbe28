"""Dead letters as people look at them: which there are, and what became of those put back."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from aiokafka import TopicPartition

from millstream.schemas.base import Address, Reason
from millstream.schemas.dead_letters import DeadLetter, DeadLetterNotFound, DeadLetterRedriven
from millstream.schemas.events import AgentResult, Redriven, ResultStatus
from millstream.schemas.topics import DEAD_LETTERS, REDRIVES, RESULTS, TopicSpec
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.topic_admin import partition_counts
from millstream.streams.bus.api import Unreadable
from millstream.streams.history.replay import HistoryQuery, read_history
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import REDRIVEN, decode
from millstream.streams.wire.headers import NO_HEADERS, DroppedHeaders
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import InputRecord, with_kept_headers

__all__ = [
    "Buried",
    "DeadLetterQuery",
    "State",
    "dead_letters",
    "find_dead_letter",
    "read_letter",
    "record_at",
    "with_outcomes",
]

# What follows another record may stand on another broker, whose clock is a little behind.
_CLOCKS_APART_MS = 60_000

State = Literal["dead", "put_back", "ended", "dead_again"]
"""`dead`: not put back; `put_back`: no outcome yet; `ended`: it has a result."""


@dataclass(frozen=True, slots=True)
class DeadLetterQuery:
    """Which dead letters are wanted. All that is given must hold; what is left out matches all.

    `codes` are those of reasons, `topic` is the physical name of the topic that the original came
    from, `since_ms` the broker's time of the dead letter.
    """

    codes: frozenset[str] = frozenset()
    topic: str | None = None
    since_ms: int | None = None

    def matches(self, letter: DeadLetter) -> bool:
        """Whether the dead letter is wanted."""
        return (not self.codes or letter.reason.code in self.codes) and (
            self.topic is None or letter.source.topic == self.topic
        )


@dataclass(frozen=True, slots=True)
class Buried:
    """A dead letter without its bytes, and what became of the original.

    `address` and `at_ms` (the broker's time) are the dead letter's, `source` is the original's.
    `headers_dropped` are those that a record put back from it lacks.

    `came_of` is the record that was put back and could not be read, if this is that. Of one that
    was put back, `redrive` tells as what, `status` how its request ended, and `dead_as` where the
    record stands that could not be read again.

    `first_offset` is given of a batch that could not be read: all from there to `source` is lost.
    """

    address: Address
    at_ms: int
    source: Address
    reason: Reason
    value_bytes: int | None
    came_of: Address | None
    headers_dropped: DroppedHeaders = NO_HEADERS
    redrive: DeadLetterRedriven | None = None
    status: ResultStatus | None = None
    dead_as: Address | None = None
    first_offset: int | None = None

    @property
    def records(self) -> int:
        """How many records it stands for: of a batch all its offsets, else one."""
        return 1 if self.first_offset is None else self.source.offset - self.first_offset + 1

    def holds(self, address: Address) -> bool:
        """Whether the original stood at an address, or in a batch within which that lies."""
        place, first = self.source, self.first_offset
        if (place.topic, place.partition) != (address.topic, address.partition):
            return False
        return (place.offset if first is None else first) <= address.offset <= place.offset

    @property
    def state(self) -> State:
        """What became of it."""
        if self.redrive is None:
            return "dead"
        if self.status is not None:
            return "ended"
        return "put_back" if self.dead_as is None else "dead_again"


async def dead_letters(
    settings: Settings,
    query: DeadLetterQuery,
    *,
    partition: int | None = None,
    on_unreadable: Callable[[Unreadable], None] = lambda _: None,
) -> AsyncGenerator[Buried]:
    """Give what is buried when it is called, oldest first, without what became of it.

    A record of the topic that is no dead letter is told to `on_unreadable`.
    Raises `ServiceUnavailable`, and `Misconfigured` where the topic is missing.
    """
    asked = HistoryQuery(topics=(DEAD_LETTERS,), since_ms=query.since_ms, partition=partition)
    async with aclosing(read_history(settings, asked)) as entries:
        async for entry in entries:
            if isinstance(entry, Unreadable):
                on_unreadable(entry)
            elif isinstance(entry.event, DeadLetter) and query.matches(entry.event):
                yield _buried(entry.address, entry.at_ms, entry.event)


async def find_dead_letter(settings: Settings, address: Address) -> Buried:
    """Give the dead letter at this address, or the newest of the record at this address.

    Or of the batch within which the address lies.

    Raises `DeadLetterNotFound`.
    """
    partition = address.partition
    if partition < await _partitions(settings, DEAD_LETTERS):
        if address.topic == settings.topic(DEAD_LETTERS.name):
            one = HistoryQuery(
                topics=(DEAD_LETTERS,),
                partition=partition,
                offset_from=address.offset,
                offset_until=address.offset + 1,
            )
            async with aclosing(read_history(settings, one)) as entries:
                async for entry in entries:
                    letter = getattr(entry, "event", None)
                    if isinstance(letter, DeadLetter):
                        return _buried(entry.address, entry.at_ms, letter)
        found: Buried | None = None
        of_topic = DeadLetterQuery(topic=address.topic)
        async with aclosing(dead_letters(settings, of_topic, partition=partition)) as letters:
            async for buried in letters:
                if buried.source == address or (
                    buried.holds(address) and (found is None or found.source != address)
                ):
                    found = buried
        if found is not None:
            return found
    raise DeadLetterNotFound(
        f"{address} is no dead letter, nor the place of a record that became one (or it is older "
        "than they are kept); `millstream dead-letters list` shows those there are"
    )


async def read_letter(reader: PartitionReader, buried: Buried) -> DeadLetter:
    """Read a dead letter with its bytes and the headers that are kept.

    Raises `DeadLetterNotFound` if its retention has passed.
    """
    async with aclosing(record_at(reader, buried.address)) as records:
        async for record in records:
            return with_kept_headers(decode(record, DeadLetter))
    raise DeadLetterNotFound(f"the dead letter {buried.address} is not there any more")


async def with_outcomes(settings: Settings, letters: Collection[Buried]) -> list[Buried]:
    """Look up what became of dead letters; in the order given.

    Reads what was put back since the oldest of them, and of that which was: the results of its
    users' partitions and the dead letters since. Memory is bounded by the number of `letters`.
    """
    if not letters:
        return []
    asked = {one.source for one in letters}
    since_ms = max(0, min(one.at_ms for one in letters) - _CLOCKS_APART_MS)
    redrives: dict[Address, DeadLetterRedriven] = {}
    first_ms: int | None = None
    async with aclosing(_history(settings, REDRIVES, since_ms)) as found:
        async for event, at_ms in found:
            if isinstance(event, DeadLetterRedriven) and event.source in asked:
                redrives[event.source] = event
                first_ms = at_ms if first_ms is None else first_ms
    if first_ms is None:
        return list(letters)
    first_ms = max(0, first_ms - _CLOCKS_APART_MS)
    statuses = await _statuses(settings, redrives.values(), first_ms)
    dead_as = await _dead_again(settings, redrives.values(), first_ms)
    return [
        replace(
            one,
            redrive=redrives.get(one.source),
            status=statuses.get(one.source),
            dead_as=dead_as.get(one.source),
        )
        for one in letters
    ]


async def _statuses(
    settings: Settings, redrives: Collection[DeadLetterRedriven], first_ms: int
) -> dict[Address, ResultStatus]:
    by_request: dict[tuple[str, str, str], list[Address]] = {}
    homes: set[int] = set()
    partitions = await _partitions(settings, RESULTS)
    for one in redrives:
        if one.request_id is not None:
            key = (one.tenant, one.user_id, one.request_id)
            by_request.setdefault(key, []).append(one.source)
            homes.add(home_partition(one.partition_key, partitions))
    # A request of the same id may have ended before: then that result is this one's, too.
    since_ms = max(0, first_ms - settings.dedup_window_s * 1000)
    statuses: dict[Address, ResultStatus] = {}
    for home in sorted(homes):
        async with aclosing(_history(settings, RESULTS, since_ms, home)) as found:
            async for event, _ in found:
                if isinstance(event, AgentResult):
                    key = (event.tenant, event.user_id, event.request_id)
                    for source in by_request.get(key, ()):
                        statuses[source] = event.status
    return statuses


async def _dead_again(
    settings: Settings, redrives: Collection[DeadLetterRedriven], first_ms: int
) -> dict[Address, Address]:
    by_place = {one.redriven_as: one.source for one in redrives}
    sources = set(by_place.values())
    found: dict[Address, Address] = {}
    async with aclosing(dead_letters(settings, DeadLetterQuery(since_ms=first_ms))) as letters:
        async for one in letters:
            # By its header, or by its place where its headers were not kept.
            source = one.came_of or by_place.get(one.source)
            if source in sources:
                found[source] = one.source
    return found


async def _partitions(settings: Settings, spec: TopicSpec) -> int:
    """Give how many partitions a topic has, whatever MILLSTREAM_PARTITIONS says here."""
    topic = settings.topic(spec.name)
    return (await partition_counts(settings, [topic]))[topic]


async def _history(
    settings: Settings, spec: TopicSpec, since_ms: int, partition: int | None = None
) -> AsyncGenerator[tuple[object, int]]:
    query = HistoryQuery(topics=(spec,), since_ms=since_ms, partition=partition)
    async with aclosing(read_history(settings, query)) as entries:
        async for entry in entries:
            yield getattr(entry, "event", None), entry.at_ms


async def record_at(reader: PartitionReader, address: Address) -> AsyncGenerator[InputRecord]:
    """Read one record, raw; nothing where the topic no longer has it."""
    where = TopicPartition(address.topic, address.partition)
    end = {where: address.offset + 1}
    if (await reader.high_watermarks([where]))[where] <= address.offset:
        return  # nothing stands there yet: to read it would be to wait for it
    async with aclosing(reader.read(end, from_offset=address.offset)) as records:
        async for record in records:
            yield InputRecord.of(record)


def _buried(address: Address, at_ms: int, letter: DeadLetter) -> Buried:
    letter = with_kept_headers(letter)
    return Buried(
        address=address,
        at_ms=at_ms,
        source=letter.source,
        reason=letter.reason,
        value_bytes=None if letter.value is None else len(base64.b64decode(letter.value)),
        came_of=_came_of(letter),
        headers_dropped=DroppedHeaders(letter.headers_dropped, letter.headers_dropped_count),
        first_offset=letter.first_offset,
    )


def _came_of(letter: DeadLetter) -> Address | None:
    given = dict(letter.headers).get(REDRIVEN)
    if given is None:
        return None
    try:
        return Redriven.model_validate_json(base64.b64decode(given)).buried
    except ValueError:
        return None  # anybody may write this header
