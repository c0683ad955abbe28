"""What a lane remembers, as a list: each fold says in one place all that the others need to know.

A restore asks the list which topics to read and from where, a commit which folds an event goes to,
a snapshot what to hold, a digest what to cover. Adding a fold is adding it to the list.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import blake2b
from typing import Any, TypeVar

import orjson

from millstream.schemas.base import Event
from millstream.schemas.topics import TopicSpec
from millstream.streams.lane.state.seen_ids import SealedChunk

HandlerT = TypeVar("HandlerT")

Handler = Callable[[Any], None]
"""Takes one committed event of the type that it stands beside."""

Placed = Callable[[Any, int], None]
"""Takes one committed event of the type that it stands beside, and the offset of its record."""


class Begin(IntEnum):
    """Where a restore begins to read a topic; of two folds' wishes the greater one counts."""

    WINDOW = 1
    """Behind the snapshot; without one, in the window in which request ids are one."""

    LOG = 2
    """Behind the snapshot; without one, at the log's beginning: its retention is the window."""

    WHOLE = 3
    """At the beginning of a compacted topic, in every restore: no snapshot holds what it tells."""


@dataclass(frozen=True, slots=True)
class Source:
    """A topic that a fold reads at a restore.

    `follows_another`, of a compacted topic: whether an event says that its key had an earlier one.
    By this a restore up to an offset finds out that compaction removed what it would need.
    """

    spec: TopicSpec
    begin: Begin
    follows_another: Callable[[Any], bool] = lambda _: True


@dataclass(frozen=True, slots=True)
class SnapshotBody:
    """What a snapshot holds: values from JSON by name, and sealed ids with how many count.

    `ids_since_ms`: ids are remembered for longer now, or more of them, than when it was taken, and
    are to be known from then on. `history_ms` is how far back they are read for that: what was
    asked under an id says its decision, which may be older than what ended it.
    """

    entries: Mapping[str, Any]
    chunks: tuple[tuple[SealedChunk, int], ...] = ()
    ids_since_ms: int | None = None
    history_ms: int = 0


@dataclass(frozen=True, slots=True)
class Refold:
    """A part of the state that no snapshot serves: it is folded anew, up to where one begins.

    From `history_ms` before what comes next, of those topics alone whose events `fold` takes.
    """

    name: str
    history_ms: int
    fold: Mapping[type[Event], Handler]


@dataclass(frozen=True, slots=True)
class Fold:
    """One thing that a lane remembers: where it is read, how it is folded, kept and compared.

    Live and restored state are the same because the same handlers make them.
    """

    name: str
    """Names it in digests."""

    topics: tuple[Source, ...]
    """The topics that a restore reads for it, in the order in which it must read them."""

    fold: Mapping[type[Event], Handler]
    """By the exact type of the event. A type of no topic in `topics` is folded live only."""

    canonical: Callable[[], Any]
    """Gives what decides of it, for JSON: equal if it decides alike, however it came to be."""

    place: Mapping[type[Event], Placed] = field(default_factory=dict)
    """Hears where committed events stand, live and restored, once they are folded."""

    entries: tuple[str, ...] = ()
    """The names that a snapshot must hold for `load`; a snapshot without them is not used."""

    state: Callable[[], dict[str, Any]] = dict
    """Gives its part of a snapshot by name: JSON values, events and bytes that never change.

    Instead of bytes it may give what makes them, which is called beside the loop.
    """

    load: Callable[[SnapshotBody], tuple[Refold, ...] | None] = lambda _: None
    """Takes a snapshot's body in. Nothing was folded before. Gives what it does not serve."""

    before_commit: bool = False
    """Live, its events are folded by the code that submits them, in that tick, not on commit."""

    follows: tuple[TopicSpec, ...] = ()
    """Those of its topics that another stage of a cut chain writes."""


class FoldList:
    """All folds of one lane, with the tables that are made of them once.

    Raises `ValueError` for two folds of one name or with one entry in snapshots, for folds whose
    topics cannot all be read in their order, and for a topic that only one of its folds reads
    whole.
    """

    def __init__(self, folds: Iterable[Fold]) -> None:
        self.folds = tuple(folds)
        for names in ([one.name for one in self.folds], self.entries):
            if len(names) > len(set(names)):
                message = f"two folds share a name: {', '.join(sorted(names))}"
                raise ValueError(message)
        self.topics = _merged(self.folds)
        """Each topic that a restore reads, once, in the order in which it reads them."""
        self.on_commit = _dispatch(one for one in self.folds if not one.before_commit)
        self.on_restore = _dispatch(self.folds)
        self.on_placed = _dispatched(one.place for one in self.folds)

    @property
    def logs(self) -> tuple[TopicSpec, ...]:
        """The topics of which a snapshot holds what stands before it, in reading order."""
        return tuple(one.spec for one in self.topics if one.begin is not Begin.WHOLE)

    @property
    def follows(self) -> tuple[TopicSpec, ...]:
        """The topics that another stage of a cut chain writes."""
        return tuple(dict.fromkeys(spec for one in self.folds for spec in one.follows))

    def hears(self, kind: type[Event]) -> bool:
        """Tell whether a restore has any use for events of a type."""
        return kind in self.on_restore or kind in self.on_placed

    @property
    def before_commit(self) -> tuple[type[Event], ...]:
        """The types of event that some fold has taken in before they are committed."""
        ahead = (kind for one in self.folds if one.before_commit for kind in one.fold)
        return tuple(dict.fromkeys(ahead))

    @property
    def entries(self) -> tuple[str, ...]:
        """The names that a snapshot must hold."""
        return tuple(name for one in self.folds for name in one.entries)

    def state(self, *, before_commit: bool) -> dict[str, Any]:
        """Give what a snapshot holds of the folds that are ahead of commits, or of the others."""
        taken: dict[str, Any] = {}
        for one in self.folds:
            if one.before_commit is before_commit:
                taken |= one.state()
        return taken

    def load(self, body: SnapshotBody) -> tuple[Refold, ...]:
        """Take a snapshot's body into every fold. Nothing was folded before.

        Gives what is to be folded anew.
        """
        return tuple(refold for one in self.folds for refold in one.load(body) or ())

    def digests(self) -> dict[str, str]:
        """Give the digest of each fold by its name, in hex."""
        return {one.name: _digest(packed(one.canonical(), sort=True)) for one in self.folds}


def digest_of(digests: Mapping[str, str]) -> str:
    """Give one digest of many named ones, in hex."""
    return _digest(packed(dict(digests), sort=True))


def packed(value: Any, *, sort: bool = False) -> bytes:
    """Give a fold's value as JSON: events as on the wire, bytes in base64; `sort`: keys in order.

    Raises `TypeError` for a value that has no JSON.
    """
    return orjson.dumps(value, default=_plain, option=orjson.OPT_SORT_KEYS if sort else 0)


def _plain(value: Any) -> Any:
    if isinstance(value, Event):
        return value.model_dump(mode="json", exclude_none=True)
    if callable(value):
        value = value()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _dispatch(folds: Iterable[Fold]) -> dict[type[Event], tuple[Handler, ...]]:
    return _dispatched(one.fold for one in folds)


def _dispatched(
    tables: Iterable[Mapping[type[Event], HandlerT]],
) -> dict[type[Event], tuple[HandlerT, ...]]:
    handlers: defaultdict[type[Event], list[HandlerT]] = defaultdict(list)
    for table in tables:
        for kind, handler in table.items():
            handlers[kind].append(handler)
    return {kind: tuple(those) for kind, those in handlers.items()}


def _merged(folds: tuple[Fold, ...]) -> tuple[Source, ...]:
    """Give each topic once, compacted ones first, in the order in which folds first name them."""
    found: dict[str, Source] = {}
    for source in (source for one in folds for source in one.topics):
        known = found.setdefault(source.spec.name, source)
        if (known.begin is Begin.WHOLE) is not (source.begin is Begin.WHOLE):
            message = f"{source.spec.name}: one fold's snapshots hold it, another reads it whole"
            raise ValueError(message)
        if source.begin > known.begin:
            found[source.spec.name] = source
    merged = sorted(found.values(), key=lambda source: source.begin is not Begin.WHOLE)
    places = {source.spec.name: place for place, source in enumerate(merged)}
    for one in folds:
        order = [places[source.spec.name] for source in one.topics]
        if order != sorted(order):
            message = f"{one.name}: its topics come in another order in the folds before it"
            raise ValueError(message)
    return tuple(merged)
