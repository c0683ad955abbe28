"""What aiokafka does wrong with what it fetched, put right for every consumer of this process.

A batch that it cannot read stops its partition, as do header names that are not UTF-8, and one that
unpacks to gigabytes takes the process down: hence batches of our own (`fetched/`). And what was
fetched, and what was assigned, stays in memory until a collection.
"""

from __future__ import annotations

from typing import Any
from weakref import proxy

from aiokafka.consumer import fetcher, subscription_state
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.consumer.subscription_state import Assignment

from millstream.streams.broker.fetched.batches import FetchedBatches, Refetches, records_of

__all__ = ["bound_fetches"]


def bound_fetches() -> None:
    """Have every aiokafka consumer of this process read so; may be called again.

    Consumers that are not ours as well, whoever made them.
    """
    fetcher.MemoryRecords = FetchedBatches
    fetcher.PartitionRecords = _Fetched
    getattr(subscription_state, "Assignment")  # noqa: B009  a rename in aiokafka must fail here
    subscription_state.Assignment = _Assigned


class _Fetched(PartitionRecords):  # type: ignore[misc]
    """What was fetched of a partition, freed as soon as nobody reads on in it.

    aiokafka's own holds a generator of its own method, and that holds it: whoever reads a part of
    what was fetched, and then from another place, leaves up to a megabyte to the garbage collector.
    That counts objects, not bytes, and a worker has it called seldom.
    """

    _refetches = Refetches()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        getattr(self, "_records_iterator")  # noqa: B009  a rename in aiokafka must fail here
        self._records_iterator = records_of(proxy(self), self._refetches)


class _Assigned(Assignment):  # type: ignore[misc]
    """What a consumer was assigned, freed as soon as it is assigned something else.

    aiokafka's own holds the states of its partitions, and each of them holds it: thirty objects for
    the garbage collector whenever a session's head is looked up, 15 MiB after 8,600 of them.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for state in self._tp_state.values():
            getattr(state, "_assignment")  # noqa: B009  a rename in aiokafka must fail here
            state._assignment = proxy(self)  # noqa: SLF001  it has no public way
