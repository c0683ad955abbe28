"""Who may write under a transactional id, and what of each one's transaction is open."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

from aiokafka import TopicPartition
from aiokafka.errors import ProducerFenced

__all__ = ["Identity", "TransactionCoordinator"]

Mark = Callable[[TopicPartition, int, bool], None]
"""Writes the marker of a producer id on a partition; whether it is a commit."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a producer is given when it starts; a newer epoch of the same id fences it."""

    producer_id: int
    epoch: int
    transactional_id: str | None = None


@dataclass(slots=True)
class _Owner:
    producer_id: int
    epoch: int = -1
    partitions: set[TopicPartition] = field(default_factory=set)


class TransactionCoordinator:
    """Transactions by id. `mark` writes their markers."""

    def __init__(self, mark: Mark) -> None:
        self._mark = mark
        self._owners: dict[str, _Owner] = {}
        self._producer_ids = count(1)

    def init(self, transactional_id: str | None) -> Identity:
        """Give a new producer its identity; fences the last one and aborts what it left open."""
        if transactional_id is None:
            return Identity(next(self._producer_ids), 0)
        owner = self._owners.get(transactional_id)
        if owner is None:
            owner = self._owners[transactional_id] = _Owner(next(self._producer_ids))
        owner.epoch += 1
        self._end(owner, is_commit=False)
        return Identity(owner.producer_id, owner.epoch, transactional_id)

    def add(self, who: Identity, places: Iterable[TopicPartition]) -> None:
        """Add partitions to a producer's transaction. Raises `ProducerFenced`."""
        self._owner(who).partitions.update(places)

    def check(self, who: Identity) -> None:
        """Raise `ProducerFenced` if a newer producer of the id has started."""
        if who.transactional_id is not None:
            self._owner(who)

    def end(self, who: Identity, *, is_commit: bool) -> None:
        """End a producer's transaction. Raises `ProducerFenced`."""
        self._end(self._owner(who), is_commit=is_commit)

    def expire(self, transactional_id: str) -> None:
        """Abort what is open and fence its producer: so its time-out ends a transaction."""
        owner = self._owners[transactional_id]
        owner.epoch += 1
        self._end(owner, is_commit=False)

    def _owner(self, who: Identity) -> _Owner:
        owner = self._owners[who.transactional_id or ""]
        if owner.epoch != who.epoch:
            raise ProducerFenced(f"a newer producer of {who.transactional_id} has started")
        return owner

    def _end(self, owner: _Owner, *, is_commit: bool) -> None:
        places, owner.partitions = owner.partitions, set()
        for where in sorted(places):
            self._mark(where, owner.producer_id, is_commit)
