"""The transactions of one lane: producers in rotation, one transaction open at a time.

Producers take turns, since the broker still writes the markers of the last transaction when the
next one begins.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import (
    IllegalOperation,
    InvalidProducerEpoch,
    InvalidTransactionTimeout,
    KafkaError,
    ProducerFenced,
)

from millstream.schemas.errors import LaneFenced, LaneLost, MillstreamError
from millstream.streams.broker.batches import BatchProducer, Outgoing, send_batches
from millstream.streams.broker.failed_sends import REFUSED_AS_TOO_LARGE
from millstream.streams.transactions.hanging.marker_watch import TransactionHangs

__all__ = ["CommitRefused", "MakeProducer", "ProducerRotation", "TransactionalProducer"]

log = structlog.get_logger(__name__)


class TransactionalProducer(BatchProducer, Protocol):
    """A producer of transactions. All raise `KafkaError`, `IllegalOperation` once it is fenced.

    `hanging` says what of its own it found to hang, if it did.
    """

    @property
    def hanging(self) -> TransactionHangs | None: ...  # noqa: D102

    async def start(self) -> None:
        """Fence every earlier producer of the same id and abort what that left open."""

    async def stop(self) -> None:
        """Disconnect; an open transaction is left to whoever fences this producer."""

    def successor(self) -> TransactionalProducer:
        """Make another one of the same id, not started, that takes this one's place."""

    async def begin_transaction(self) -> None:
        """Begin a transaction."""

    def expect(self, places: Iterable[TopicPartition]) -> None:
        """Have partitions added to the open transaction meanwhile, which takes a round trip."""

    async def commit_transaction(self) -> None:
        """Return once what was sent is committed, but for what was refused."""

    async def abort_transaction(self) -> None:
        """Return once what was sent is aborted."""

    async def look(self) -> None:
        """See to it that what ended a while ago was not left hanging. Raises `TransactionHangs`."""


MakeProducer = Callable[[int], TransactionalProducer]
"""Makes the lane's transactional producer of a number, not started."""

# A producer that was fenced may also say only that it is in no state to go on.
_FENCED = (ProducerFenced, InvalidProducerEpoch, IllegalOperation)
# That last one is no `KafkaError`.
_FAILED = (KafkaError, IllegalOperation, TimeoutError)
_ABORT_TIMEOUT_S = 5.0


class CommitRefused(MillstreamError):
    """The broker refused one of these records; nothing of them was written."""

    code = "commit_refused"


class ProducerRotation:
    """Makes and starts `producers` of them, each fencing its predecessor.

    After `LaneLost` only `stop` may be called: what became of the last transaction is not known.
    """

    def __init__(self, make_producer: MakeProducer, *, producers: int, timeout_s: float) -> None:
        self._make_producer = make_producer
        self._producers = [make_producer(number) for number in range(producers)]
        self._turns = itertools.cycle(range(producers))
        self._timeout_s = timeout_s
        self._begun: int | None = None
        self._written_with: dict[TopicPartition, frozenset[TopicPartition]] = {}

    async def start(self) -> None:
        """Fence every earlier owner and abort what it left open. Raises `LaneLost`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                for producer in self._producers:
                    await producer.start()
        except _FAILED as error:
            raise _lost(error, "the lane's producers did not start") from error

    async def fence_up_to(self, producers: int) -> None:
        """Fence an earlier owner that had this many producers, more than this one has.

        Raises `LaneLost` if the broker does not let it.
        """
        for number in range(len(self._producers), producers):
            producer = self._make_producer(number)
            try:
                async with asyncio.timeout(self._timeout_s):
                    await producer.start()
                    await producer.stop()
            except _FAILED as error:
                raise _lost(error, "an earlier owner's producer was not fenced") from error

    async def stop(self) -> None:
        """Stop; a transaction that is open is aborted by whoever fences this lane."""
        stops = (asyncio.wait_for(one.stop(), _ABORT_TIMEOUT_S) for one in self._producers)
        for outcome in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.debug("a lane's producer did not stop cleanly", error=repr(outcome))

    async def look(self) -> None:
        """See to it that none of what ended a while ago was left hanging. Raises `LaneLost`."""
        for producer in self._producers:
            try:
                await producer.look()
            except TransactionHangs as hanging:
                raise _hangs(hanging) from hanging

    async def begin(self, awaited: Iterable[Outgoing]) -> None:
        """Begin the next transaction before all of its records are there, unless it has begun.

        The partitions that the last ones with records such as those `awaited` wrote to are added to
        it meanwhile, which takes a round trip. It holds back no reader as long as it has no
        records. Raises `LaneLost`.
        """
        if self._begun is not None:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                producer = await self._open()
        except _FAILED as error:
            raise self._lost(error, "a transaction did not begin") from error
        for place in _places(awaited):
            producer.expect(self._written_with.get(place, (place,)))

    async def commit(self, records: Sequence[Outgoing]) -> list[int]:
        """Write records, at least one, in one transaction; give their offsets once it is committed.

        Raises `CommitRefused` if the broker refused one of them, and `LaneLost`.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                producer = await self._open()
                # Every batch is awaited: one that the broker refuses fails only its own future, and
                # the transaction would commit without it.
                offsets = await send_batches(producer, records)
                await producer.commit_transaction()
        except REFUSED_AS_TOO_LARGE as error:
            await self._abort_and_replace()
            raise CommitRefused(f"the broker refused a record: {error!r}") from error
        except _FAILED as error:
            raise self._lost(error, "a commit failed or its outcome is unknown") from error
        self._begun = None
        written = _places(records)
        self._written_with.update(dict.fromkeys(written, written))
        return offsets

    async def _open(self) -> TransactionalProducer:
        """Give the producer whose transaction is open; begin one if none is."""
        if self._begun is None:
            turn = next(self._turns)
            await self._producers[turn].begin_transaction()
            self._begun = turn
        return self._producers[self._begun]

    async def _abort_and_replace(self) -> None:
        # The refused batch took sequence numbers that the broker never saw: whatever this producer
        # sends next would be out of order. A new one of its id starts with a new epoch.
        turn, self._begun = self._begun, None
        assert turn is not None  # noqa: S101  a record was sent in it
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._producers[turn].abort_transaction()
                await self._producers[turn].stop()
                self._producers[turn] = self._producers[turn].successor()
                await self._producers[turn].start()
        except _FAILED as error:
            raise _lost(error, "a transaction could not be aborted") from error

    def _lost(self, error: BaseException, what: str) -> LaneLost:
        for producer in self._producers:
            # Its client only says that it cannot go on.
            if producer.hanging is not None:
                return _hangs(producer.hanging)
        return _lost(error, what)


def _hangs(hanging: TransactionHangs) -> LaneLost:
    return LaneLost(f"{hanging}; the partition's next lane ends it as it was decided")


def _places(records: Iterable[Outgoing]) -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(one.topic, one.partition) for one in records)


def _lost(error: BaseException, what: str) -> LaneLost:
    if isinstance(error, _FENCED):
        return LaneFenced(f"{what}: a newer owner has the partition ({error!r})")
    if isinstance(error, InvalidTransactionTimeout):
        return LaneLost(
            f"{what}: brokers let no transaction take twice MILLSTREAM_COMMIT_TIMEOUT_S: lower it, "
            "or have their transaction.max.timeout.ms raised"
        )
    return LaneLost(f"{what}: {error!r}")
