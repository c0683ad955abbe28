"""Seeing to it that no producer goes on with a transaction of its own that a broker left hanging.

A commit is answered before its markers are written, and a broker that is killed in between may
never write them (`hanging_transactions.py`). The next marker of the same producer ends both
transactions alike: where that is an abort, what was committed is gone. So before a producer adds
partitions to its next transaction, its last one must have all its markers.

A coordinator adds none before it takes the last transaction for ended, and it takes one for ended
that is not only if it was started again meanwhile, or if a partition had no leader. Nobody is asked
as long as neither can be: no connection was lost, the coordinator is the same, and the transaction
is young. One that nothing follows is asked about by and by, once.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import KafkaError, OutOfOrderSequenceNumber

from millstream.streams.broker.raw_broker import RawBroker
from millstream.streams.transactions.hanging.describe import (
    DENIED,
    NEEDED,
    OpenTransaction,
    describe_transaction,
    open_transactions,
)

__all__ = ["GuardTimes", "MarkerGuard", "TransactionHangs"]

log = structlog.get_logger(__name__)

_ASK_AGAIN_S = 0.1
_TRANSACTION = CoordinationType.TRANSACTION


@dataclass(frozen=True, slots=True)
class GuardTimes:
    """When a guard asks.

    Attributes:
        young_s: For how long unbroken connections vouch for a transaction: a partition may lose its
            leader, and no client of that one notice.
        quiet_s: How long a transaction that nothing follows waits to be asked about: less, so that
            the next one need not wait for the answer.
    """

    young_s: float = 15.0
    quiet_s: float = 10.0


class TransactionHangs(OutOfOrderSequenceNumber):  # type: ignore[misc]
    """A transaction that a producer has ended has no marker on a partition.

    Of a type for which a sender stops without more ado: there is no going on in order.
    """


class _Connections(dict[Any, Any]):
    """A client's connections; `state` differs once one of those there were is lost."""

    def __init__(self) -> None:
        super().__init__()
        self._replaced = 0

    def __delitem__(self, key: Any) -> None:
        # So a client makes room for another one, once it needs one that is broken.
        self._replaced += 1
        super().__delitem__(key)

    @property
    def state(self) -> tuple[int, frozenset[Any]]:
        return self._replaced, frozenset(one for one in self.values() if not one.connected())


class MarkerGuard:
    """Watches over a producer of transactions. Made before the producer starts.

    `follows` is the watch over the producer whose place it takes after an abort, of which nobody
    has heard more. Where none is given, no earlier transaction of the id may be open.
    """

    def __init__(
        self,
        producer: AIOKafkaProducer,
        *,
        follows: MarkerGuard | None = None,
        times: GuardTimes | None = None,
    ) -> None:
        self.times = times or GuardTimes()
        # There is no public way to come before a producer adds partitions.
        self._client = producer.client
        self._sender: Any = producer._sender  # noqa: SLF001
        self._manager: Any = producer._txn_manager  # noqa: SLF001
        self._connections = self._client._conns = _Connections()  # noqa: SLF001
        self._add = self._sender._do_add_partitions_to_txn  # noqa: SLF001
        self._sender._do_add_partitions_to_txn = self._add_once_marked  # noqa: SLF001
        self._written: set[TopicPartition] = set()
        if follows is not None:
            self._written |= follows._written  # noqa: SLF001  one of its own
        self._transactions = 0
        self._began_s = 0.0
        self._began_with: tuple[Any, ...] | None = None
        self._marked = follows is None
        self._cannot_ask = False
        self.hanging: TransactionHangs | None = None
        """What was found, once something was."""

    async def look(self) -> None:
        """Ask about the last transaction if that is due. Raises `TransactionHangs`."""
        if self._marked or self._manager.txn_partitions:
            return
        if self._is_unbroken and self._age_s < self.times.quiet_s:
            return
        asked_of = self._transactions
        found = await self._find()
        # Else what is open may be the next one, which began meanwhile.
        if found is not None and asked_of == self._transactions:
            self._conclude(found)

    async def _add_once_marked(self, partitions: set[TopicPartition]) -> bool:
        """Stand before the sender's request, which it repeats until that has succeeded."""
        manager = self._manager
        # To a transaction that has partitions more may be added: nothing has ended since.
        if manager.txn_partitions:
            self._written |= partitions
            return bool(await self._add(partitions))
        # From here to the request nothing else has a turn, unless there is something to ask.
        await self._sender._find_coordinator(_TRANSACTION, manager.transactional_id)  # noqa: SLF001
        if not (self._marked or (self._is_unbroken and self._age_s < self.times.young_s)):
            found = await self._find()
            if found is None:
                await asyncio.sleep(_ASK_AGAIN_S)
                return False
            self._conclude(found)
        self._written |= partitions
        added = bool(await self._add(partitions))
        if manager.txn_partitions:
            self._transactions += 1
            self._marked = False
            self._began_s = time.monotonic()
            self._began_with = self._now
        return added

    @property
    def _now(self) -> tuple[Any, ...]:
        coordinator = self._sender._coordinators.get(_TRANSACTION)  # noqa: SLF001
        return self._connections.state, coordinator

    @property
    def _is_unbroken(self) -> bool:
        return self._began_with == self._now

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._began_s

    def _conclude(self, found: list[OpenTransaction]) -> None:
        if found:
            where = ", ".join(map(str, found))
            self.hanging = TransactionHangs(f"a broker left without a marker: {where}")
            raise self.hanging
        self._marked = True

    async def _find(self) -> list[OpenTransaction] | None:
        """Give what is open though this producer ended it; `None` if that cannot be told yet."""
        if self._cannot_ask:
            return []
        raw = RawBroker(self._client)
        try:
            # First the coordinator: what is open behind its back from then on hangs.
            told = await describe_transaction(raw, self._manager.transactional_id)
            if told.goes_on:
                return []  # it was asked to add partitions, and its answer was lost
            if told.partitions:
                return None
            for topic in {where.topic for where in self._written}:
                await self._client.add_topic(topic)
            opened = await open_transactions(raw, self._written)
        except DENIED as error:
            self._cannot_ask = True
            log.error(  # noqa: TRY400  no trace
                "a transaction that a broker leaves hanging would not be noticed: its results are "
                "lost if the next one is aborted",
                transactional_id=self._manager.transactional_id,
                reason=repr(error),
                needed=NEEDED,
            )
            return []
        except KafkaError as error:
            log.debug("a broker does not say what hangs", reason=repr(error))
            self._client.force_metadata_update()
            return None
        return [one for one in opened if one.producer_id == self._manager.producer_id]
