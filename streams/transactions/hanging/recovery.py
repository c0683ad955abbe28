"""Ending transactions that a broker left hanging on a lane's partitions.

A broker that is killed while it ends a transaction, and is started again, may take partitions of it
for deleted while they have no leader: it calls the transaction complete, and never writes its
markers there. All that is committed behind it then waits for ever. What `kafka-transactions.sh`
does by hand (KIP-664) is done here, but with the outcome that the transaction had: that tool can
only abort, which would lose what its producer was told is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import ClusterAuthorizationFailedError, KafkaError, for_code
from aiokafka.record.control_record import COMMIT_MARKER, ControlRecord

from millstream.schemas.errors import MillstreamError
from millstream.streams.broker.raw_broker import RawBroker, raw_log
from millstream.streams.settings import Settings
from millstream.streams.transactions.hanging import coordinator_log
from millstream.streams.transactions.hanging.describe import (
    DENIED,
    NEEDED,
    OpenTransaction,
    TransactionDescription,
    describe_transaction,
    open_transactions,
)
from millstream.streams.transactions.hanging.protocol import WriteTxnMarkersRequest

__all__ = ["HangingTransactions", "Undecided"]

log = structlog.get_logger(__name__)

_HELD_BACK_S = 5.0
"""A lane that opens healthily is open by then: until then nothing is asked."""

_LOOK_EVERY_S = 2.0

_BY_HAND = (
    "`kafka-transactions.sh find-hanging` shows it, and `abort` ends it, which loses it if it was "
    "committed"
)


class Undecided(MillstreamError):
    """A transaction hangs, and how it is to end is not known for certain."""

    code = "hanging_transaction"


class HangingTransactions:
    """Ends what hangs on `partitions`, all that one lane's transactions write to.

    Only of producers whose transactional id is in `fenced`, which the lane has fenced: no other
    can be told from one that is alive. Nothing that a coordinator has in hand is touched.
    """

    def __init__(
        self,
        settings: Settings,
        partitions: Collection[TopicPartition],
        *,
        held_back_s: float = _HELD_BACK_S,
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._settings = settings
        self._partitions = frozenset(partitions)
        self._held_back_s = held_back_s
        self._look_every_s = look_every_s
        self.fenced: frozenset[str] = frozenset()
        self.ended: list[OpenTransaction] = []

    @asynccontextmanager
    async def watched(self) -> AsyncGenerator[None, None]:
        """End what hangs for longer than a moment while the block runs."""
        watching = asyncio.create_task(self._watch(), name="hanging transactions")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait({watching})
        if not watching.cancelled() and (error := watching.exception()) is not None:
            raise error

    async def _watch(self) -> None:
        """Look for them again and again. What Kafka does not answer is told in the log."""
        await asyncio.sleep(self._held_back_s)
        topics = {where.topic for where in self._partitions}
        seen: frozenset[OpenTransaction] = frozenset()
        while True:
            try:
                async with raw_log(self._settings, topics) as raw:
                    while True:
                        seen = await self._look(raw, seen)
                        await asyncio.sleep(self._look_every_s)
            except DENIED as error:
                # Once: to ask again does not mend it, and the lane's next opening does.
                log.error(  # noqa: TRY400  no trace
                    "a lane takes long to open, and whether a transaction hangs cannot be asked",
                    reason=repr(error),
                    needed=NEEDED,
                )
                return
            except (KafkaError, TimeoutError) as error:
                log.warning("hanging transactions cannot be looked for", exc_info=error)
                seen = frozenset()
            await asyncio.sleep(self._look_every_s)

    async def _look(
        self, raw: RawBroker, before: frozenset[OpenTransaction]
    ) -> frozenset[OpenTransaction]:
        """End those that were hanging at the last look, too; give all that hang now.

        At one look alone, a marker may have been written between the two answers. At the second
        one, a transaction that the coordinator had let go of would be gone.
        """
        opened = await open_transactions(raw, self._partitions)
        if not opened:
            return frozenset()
        coordinated = await self._coordinated(raw)
        hanging = frozenset(
            one
            for one in opened
            if (told := coordinated.get(one.producer_id)) is not None
            and one.where not in told.partitions
        )
        for one in sorted(hanging & before, key=lambda one: one.where):
            try:
                await self._end(raw, one, coordinated[one.producer_id].transactional_id)
            except Undecided as undecided:
                log.error("a transaction hangs and is not ended", reason=str(undecided))  # noqa: TRY400  no trace
        return hanging

    async def _coordinated(self, raw: RawBroker) -> Mapping[int, TransactionDescription]:
        """Give what the coordinators say of the fenced ids, by producer id."""
        told = [await describe_transaction(raw, one) for one in sorted(self.fenced)]
        return {one.producer_id: one for one in told}

    async def _end(self, raw: RawBroker, one: OpenTransaction, transactional_id: str) -> None:
        """Write the marker that is missing. Raises `Undecided` and `KafkaError`."""
        is_commit, why = await self._outcome(raw, one, transactional_id)
        where = one.where
        request = WriteTxnMarkersRequest(
            where.topic,
            where.partition,
            producer_id=one.producer_id,
            producer_epoch=one.producer_epoch,
            # None has ended one there yet: 0 is no newer than any (as kafka-transactions.sh does).
            coordinator_epoch=max(one.coordinator_epoch, 0),
            is_commit=is_commit,
        )
        response = await raw.ask(raw.leader(where), request)
        ((_, ((_, ((_, error_code, _),), _),), _),) = response.markers
        error = for_code(error_code)
        if error is ClusterAuthorizationFailedError:
            raise Undecided(
                f"{one} hangs: it is to be {_word(is_commit)}, but this worker lacks the right "
                f"`Alter` on the cluster, which ending it needs; {_BY_HAND}"
            )
        if error_code:
            raise error(f"the marker for {one}")
        self.ended.append(one)
        log.warning(
            "a transaction that a broker left hanging was ended",
            partition=f"{where.topic}-{where.partition}",
            producer_id=one.producer_id,
            producer_epoch=one.producer_epoch,
            start_offset=one.start_offset,
            outcome=_word(is_commit),
            known_from=why,
        )

    async def _outcome(
        self, raw: RawBroker, one: OpenTransaction, transactional_id: str
    ) -> tuple[bool, str]:
        """Tell whether it was committed, and how that is known. Raises `Undecided`."""
        began_ms = await self._began_ms(raw, one)
        unreadable = ""
        try:
            verdicts = await self._verdicts(raw, one, transactional_id, began_ms)
        except (KafkaError, coordinator_log.UnknownFormat) as error:
            verdicts, unreadable = set(), f"{coordinator_log.TOPIC} cannot be read ({error!r})"
        if len(verdicts) > 1:
            raise Undecided(
                f"{one} hangs: several transactions stand there, and not all of them were "
                f"committed; {_BY_HAND}"
            )
        if verdicts:
            return verdicts.pop(), "the coordinator's log"
        marker = await self._marker_elsewhere(raw, one, began_ms)
        if marker is not None:
            return marker, "the marker on another partition"
        if unreadable:
            # Its producer is told of the commit before any marker is written.
            raise Undecided(
                f"{one} hangs: no partition has its marker and {unreadable}, so nobody knows "
                f"whether it was committed; give this worker the right `Read` there, or: {_BY_HAND}"
            )
        return False, "no coordinator ever decided on it"

    async def _began_ms(self, raw: RawBroker, one: OpenTransaction) -> int:
        async for batch in raw.batches(one.where, from_offset=one.start_offset):
            return int(batch.max_timestamp)  # the broker's, when it took the batch
        raise Undecided(f"{one} hangs: its first record is not there; {_BY_HAND}")

    async def _verdicts(
        self, raw: RawBroker, one: OpenTransaction, transactional_id: str, began_ms: int
    ) -> set[bool]:
        """Give how the coordinator ended this producer's transactions with this partition."""
        partitions = await raw.partitions_of(coordinator_log.TOPIC)
        if not partitions:
            raise for_code(_UNKNOWN_TOPIC)(coordinator_log.TOPIC)
        where = partitions[coordinator_log.coordinator_partition(transactional_id, len(partitions))]
        found = set()
        async for batch in raw.batches(where, since_ms=began_ms):
            for record in () if batch.is_control_batch else batch:
                if record.timestamp < began_ms:
                    continue
                if not coordinator_log.is_of(record.key, transactional_id):
                    continue
                verdict = coordinator_log.read_verdict(record.value)
                if (
                    verdict is not None
                    and verdict.producer_id == one.producer_id
                    and one.where in verdict.partitions
                ):
                    found.add(verdict.is_commit)
        return found

    async def _marker_elsewhere(
        self, raw: RawBroker, one: OpenTransaction, began_ms: int
    ) -> bool | None:
        """Give the outcome of this producer's first marker since then on the other partitions.

        A producer's transactions follow one another: the next one begins when all markers of the
        last one are out. So its earliest marker is that of the transaction that hangs.
        """
        earliest: tuple[int, bool] | None = None
        for where in self._partitions - {one.where}:
            async for batch in raw.batches(where, since_ms=began_ms):
                if not batch.is_control_batch or batch.producer_id != one.producer_id:
                    continue
                if batch.max_timestamp < began_ms:
                    continue
                is_commit = ControlRecord.parse(next(iter(batch)).key) == COMMIT_MARKER
                if earliest is None or batch.max_timestamp < earliest[0]:
                    earliest = (batch.max_timestamp, is_commit)
                break
        return None if earliest is None else earliest[1]


_UNKNOWN_TOPIC = 3


def _word(is_commit: bool) -> str:  # noqa: FBT001  the only argument
    return "committed" if is_commit else "aborted"
