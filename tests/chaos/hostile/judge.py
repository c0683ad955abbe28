"""What became of hostile records: each is to be told of once, whatever it is told as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from millstream.schemas.base import Event
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.errors import Poison
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import TopicSpec
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode
from tests.chaos.hostile.records import Sent
from tests.chaos.load import HOSTILE
from tests.harness.lane_common import EventT, places_of, records_of
from tests.harness.lanes import reader

__all__ = ["Outcome", "outcomes", "read_honest", "unaccounted"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A hostile record, and how many dead letters and results tell of it."""

    sent: Sent
    letters: int
    results: int


async def read_honest(settings: Settings, spec: TopicSpec, event: type[EventT]) -> list[EventT]:
    """Read what is committed on a topic now and is readable, but for what hostile requests left."""
    records = await records_of(reader(settings), places_of(settings, spec))
    return [one for one in _decoded(records, event) if not _is_hostile(one)]


def _is_hostile(event: Event) -> bool:
    return str(getattr(event, "request_id", "")).startswith(HOSTILE)


def _decoded(records: Iterable[Any], event: type[EventT]) -> Iterable[EventT]:
    for record in records:
        try:
            yield decode(record, event)
        except Poison:
            continue


def outcomes(
    sent: Sequence[Sent], letters: Iterable[DeadLetter], results: Iterable[AgentResult]
) -> list[Outcome]:
    """Look up what became of each. A letter may stand for a range of offsets."""
    letters = list(letters)
    answered = Counter(result.request_id for result in results)
    return [
        Outcome(one, sum(_names(letter, one) for letter in letters), answered[one.request_id])
        for one in sent
    ]


def _names(letter: DeadLetter, one: Sent) -> bool:
    source = letter.source
    first = getattr(letter, "first_offset", None)
    return (source.topic, source.partition) == (one.topic, one.partition) and (
        source.offset if first is None else first
    ) <= one.offset <= source.offset


def unaccounted(found: Iterable[Outcome]) -> Iterable[str]:
    """Name the hostile records that nothing tells of, or more than one thing."""
    for one in found:
        if one.letters + one.results != 1:
            sent = one.sent
            yield (
                f"{sent.kind} at {sent.topic}-{sent.partition}@{sent.offset}: "
                f"{one.letters} dead letters and {one.results} results, not one of them"
            )
