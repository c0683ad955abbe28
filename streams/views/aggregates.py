"""What the views count: an aggregate of one partition of one topic, and what an event adds to it.

An aggregate holds the offset of the last record folded into it. So it can be kept, lost and read
again at any moment, and a record that is delivered again is never counted again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson
import structlog

from millstream.schemas.base import INT64_MAX, Event, saturated
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import (
    AgentResult,
    AgentToken,
    CheckpointSaved,
    CostRecorded,
    Decision,
    SessionUpdated,
)
from millstream.schemas.sessions.states import SessionChanged, SessionState

__all__ = [
    "LATENCY",
    "LATENCY_BUCKETS_MS",
    "MINUTES_KEPT",
    "OTHER",
    "Aggregate",
    "Counts",
    "Stand",
    "cost_of",
    "counts_of",
    "merged",
    "parts",
    "spend_of",
]

log = structlog.get_logger(__name__)

Counts = Mapping[str, int]
"""Whole numbers by name; a name is a figure and a label's value, joined by `|`."""

MINUTES_KEPT = 60
OTHER = "other"

LATENCY_BUCKETS_MS = (
    *(5, 10, 25, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000),
)
"""Upper bounds; a longer time falls into a last bucket without one."""

_NAMES_MAX = 256
_MINUTE_MS = 60_000
# Distributions are many names each: by the minute they would be most of what is written.
LATENCY = "latency_ms|"


class Stand(NamedTuple):
    """Up to and with which record something is counted, and when the newest of them arrived."""

    offset: int
    newest_ms: int


@dataclass(slots=True)
class Aggregate:
    """Counts up to and with the record at `offset`: in total, and by minute of the broker's clock.

    `redo_from` is the first offset that some consumer outside the aggregate still has to see again;
    `None`: it has seen all of them. `newest_ms` is the latest time of a record that was counted,
    `log` how often the partition's log was set back: offsets of one log say nothing of another's.
    """

    offset: int = -1
    totals: dict[str, int] = field(default_factory=dict)
    minutes: dict[int, dict[str, int]] = field(default_factory=dict)
    redo_from: int | None = None
    newest_ms: int = -1
    log: int = 0
    _counted_to_ms: int = -1

    @property
    def saturated(self) -> int:
        """How many totals are at the largest number that is kept, and rise no more."""
        return sum(amount >= INT64_MAX for amount in self.totals.values())

    @property
    def stand(self) -> Stand:
        """How far it counts."""
        return Stand(self.offset, self.newest_ms)

    @property
    def position(self) -> int:
        """The offset from which the topic is to be read on."""
        return self.offset + 1 if self.redo_from is None else min(self.redo_from, self.offset + 1)

    @property
    def is_full(self) -> bool:
        """Whether no further name is kept but in place of another, or of those to be `kept`."""
        return len(self.totals) >= _NAMES_MAX

    def fold(
        self, offset: int, at_ms: int, counts: Counts, *, kept: AbstractSet[str] = frozenset()
    ) -> bool:
        """Count a record unless it is counted already; tells whether it was new.

        Names in `kept` are counted whatever others there are.
        """
        if offset <= self.offset:
            return False
        self.offset = offset
        if at_ms <= self._counted_to_ms:
            return False
        self._counted_to_ms = -1
        self.newest_ms = max(self.newest_ms, at_ms)
        minute = self._minute(at_ms // _MINUTE_MS)
        for name, amount in counts.items():
            known = name if name in kept else self._bounded(name, amount, kept)
            _add_to(self.totals, known, amount)
            if minute is not None and not known.startswith(LATENCY):
                _add_to(minute, known, amount)
        return True

    def set_back(self, read_from: int) -> None:
        """Go on with a log that ends before what was counted, from its first record.

        It was made anew, or truncated: what it still has of what was counted is as old as that.
        """
        self.log += 1
        self.offset = read_from - 1
        self._counted_to_ms = self.newest_ms

    def follow(self, log: int) -> None:
        """Take records of this log for new ones, unless it is the one that was counted last."""
        if self.log != log:
            self.log, self.offset = log, -1

    def _bounded(self, name: str, amount: int, kept: AbstractSet[str]) -> str:
        """Give the name to count under: a hostile flood of label values ends in `other`.

        A name takes the place of the one of its figure that counts least, and less than this record
        adds; what that one counted goes to `other`. So no flood of names, priced or not, holds all
        places for ever.
        """
        if name in self.totals or not self.is_full or name.startswith(LATENCY):
            return name
        figure, _ = parts(name)
        other = f"{figure}|{OTHER}"
        if other not in self.totals:
            log.warning("a figure has too many names; further ones are counted together", name=name)
        least, rival = min(
            (
                (counted, each)
                for each, counted in self.totals.items()
                if each != other and each not in kept and parts(each)[0] == figure
            ),
            default=(amount, ""),
        )
        if least >= amount:
            return other
        for counts in (self.totals, *self.minutes.values()):
            if moved := counts.pop(rival, 0):
                _add_to(counts, other, moved)
        return name

    def _minute(self, number: int) -> dict[str, int] | None:
        """Give the counts of a minute, `None` for one before those kept."""
        newest = max(self.minutes, default=number)
        if number <= newest - MINUTES_KEPT:
            return None
        counts = self.minutes.setdefault(number, {})
        for old in [one for one in self.minutes if one <= number - MINUTES_KEPT]:
            del self.minutes[old]
        return counts

    def to_bytes(self) -> bytes:
        """Write it as JSON."""
        return orjson.dumps(
            {
                "offset": self.offset,
                "totals": self.totals,
                "minutes": {str(minute): counts for minute, counts in self.minutes.items()},
                "redo_from": self.redo_from,
                "newest_ms": self.newest_ms,
                "log": self.log,
            }
        )

    @classmethod
    def from_bytes(cls, value: bytes) -> Aggregate:
        """Read what `to_bytes` wrote."""
        read = orjson.loads(value)
        return cls(
            offset=read["offset"],
            totals=read["totals"],
            minutes={int(minute): counts for minute, counts in read["minutes"].items()},
            redo_from=read["redo_from"],
            newest_ms=read.get("newest_ms", -1),
            log=read.get("log", 0),
        )


def counts_of(  # noqa: PLR0911  one return per type of event
    event: Event, *, at_ms: int, last_stage: str
) -> dict[str, int]:
    """Give what an event adds to its topic's counts.

    `at_ms` is the broker's time of the record. A chain that is cut decides once per stage: a
    request is admitted when the stage named `last_stage` admits it, and rejected by any.
    """
    match event:
        case Decision(admitted=True, stage=stage):
            return {"requests|admitted|": 1} if stage == last_stage else {}
        case Decision(reason=reason):
            return {f"requests|rejected|{reason.code if reason else ''}": 1}
        case AgentResult():
            # Without a reason as earlier versions counted all of them, under one name for both.
            why = f"|{event.reason.code}" if event.reason else ""
            return {f"results|{event.status}{why}": 1, **dict(_latencies(event, at_ms))}
        case CostRecorded():
            return spend_of(event)
        case AgentToken():
            return {"token_records|": 1, "streamed_tokens|": event.tokens}
        case CheckpointSaved():
            return {"checkpoints|": 1} if event.renewed_ms is None else {}
        case SessionUpdated() | SessionState() | SessionChanged():
            return _of_session(event)
        case DeadLetter():
            return {f"dead_letters|{event.reason.code}": 1}
        case _:
            message = f"no view counts a {type(event).__name__}"
            raise TypeError(message)


def _of_session(event: SessionUpdated | SessionState | SessionChanged) -> dict[str, int]:
    match event:
        case SessionUpdated():
            return {"session_heads|": 1}
        case SessionChanged():
            return {f"session_changes|{event.change}": 1}
        case SessionState():
            # Others of its records leave it in the state that it is in.
            is_entered = event.since_ms == event.at_ms
            return {f"session_states|{event.state}": 1} if is_entered else {}


def spend_of(event: CostRecorded) -> dict[str, int]:
    """Give what a run's cost adds to its user's spend, and to that of all.

    A model that cost nothing and was not used was never found: its name is anybody's.
    """
    was_used = event.cost_micros or not event.usage.is_none
    return {
        cost_of(event.model if was_used else OTHER): event.cost_micros,
        "tokens|input": event.usage.input_tokens,
        "tokens|output": event.usage.output_tokens,
    }


def cost_of(model: str) -> str:
    """Give the name under which a model's cost is counted.

    What no line of text can hold is replaced: readers of metrics split lines at more than a line
    feed, and one bad label costs them the whole scrape (BerriAI/litellm#20600).
    """
    if not model.isprintable():
        model = "".join(each if each.isprintable() else "?" for each in model)
    return f"cost_micros|{model}"


def merged(aggregates: Iterator[Aggregate]) -> Aggregate:
    """Add up aggregates of several partitions; the sum has no offset."""
    total = Aggregate()
    for aggregate in aggregates:
        _add(total.totals, aggregate.totals)
        for minute, counts in aggregate.minutes.items():
            _add(total.minutes.setdefault(minute, {}), counts)
    return total


def parts(name: str) -> tuple[str, str]:
    """Split a counted name into the figure and its label's value, which may hold a `|` itself."""
    figure, _, label = name.partition("|")
    return figure, label


def _latencies(event: AgentResult, at_ms: int) -> Iterator[tuple[str, int]]:
    ends = {"queue": event.started_at_ms, "first_token": event.first_token_at_ms}
    if event.started_at_ms is not None:
        ends["run"] = at_ms
    for step, end_ms in ends.items():
        if end_ms is not None:
            # A worker's clock may be behind the broker's.
            took_ms = max(0, end_ms - event.accepted_at_ms)
            yield f"{LATENCY}{step}|{bisect_left(LATENCY_BUCKETS_MS, took_ms)}", 1
            yield f"{LATENCY}{step}|sum", took_ms


def _add_to(counts: dict[str, int], name: str, amount: int) -> None:
    # The table's JSON has integers of 64 bits, and one absurd figure must not end what counts it.
    total = counts.get(name, 0) + amount
    if total >= INT64_MAX > counts.get(name, 0):
        log.warning("a figure is at its largest and rises no more", name=name)
    counts[name] = saturated(total)


def _add(counts: dict[str, int], more: Counts) -> None:
    for name, amount in more.items():
        counts[name] = saturated(counts.get(name, 0) + amount)
