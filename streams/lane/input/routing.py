"""Records that are not served where they stand: buried as dead letters, or moved."""

from __future__ import annotations

import asyncio

import structlog
from aiokafka.errors import KafkaError

from millstream.schemas.dead_letters import RecordTooLarge
from millstream.schemas.errors import LaneLost, Poison
from millstream.streams.broker.failed_sends import REFUSED_AS_TOO_LARGE
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.input.letter_log import LetterLog
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.transactions.committer import CommitRefused
from millstream.streams.wire.codec import ORIGIN
from millstream.streams.wire.headers import forwarded_headers
from millstream.streams.wire.records import InputRecord, bare_letter, dead_letter, unreadable_places
from millstream.streams.wire.sizes import record_bytes

__all__ = ["RecordRouter"]

log = structlog.get_logger(__name__)


class RecordRouter:
    """Buries records as dead letters, or puts them at their user's partition."""

    def __init__(self, services: LaneServices, *, writer: LaneWriter) -> None:
        self._services = services
        self._letters = LetterLog()
        self._sending = asyncio.Lock()
        self._writer = writer

    async def dead_letter(self, entry: Entry[InputRecord], poison: Poison) -> None:
        """Commit a record's dead letter, and acknowledge the record then."""
        letter = dead_letter(entry.record, poison, at_ms=self._services.clock_ms())
        self._letters.tell(letter)
        try:
            await self._writer.commit([letter])
        except CommitRefused as refused:
            # Its topic takes less than the catalogue says: better without the bytes than never.
            log.warning(
                "a dead letter is written without its record's bytes",
                source=str(entry.record.address),
                reason=str(refused),
                remedy="`millstream doctor` says which topic's limit to raise",
            )
            bare = bare_letter(entry.record, poison, at_ms=letter.at_ms)
            await self._writer.commit([bare])
        entry.finish()

    async def reroute(
        self,
        entry: Entry[InputRecord],
        partition_key: str,
        home: int,
        origin: tuple[str, bytes],
    ) -> None:
        """Send a record to partition `home`, and acknowledge it then. Raises `LaneLost`.

        One that has become too large for its topic is buried where it stands.
        """
        # A plain send: only lane `home` may write to partition `home` in a transaction. Sent
        # again after a crash it is the same request, since it keeps the id of its origin.
        record = entry.record
        replaced = (ORIGIN, *unreadable_places(record))
        headers = [*forwarded_headers(record.headers, replaced=replaced), origin]
        key = partition_key.encode()
        try:
            # One after the other: a send that waits for where its topic is would be overtaken.
            async with self._sending:
                sent = await self._services.producer.send(
                    record.topic, record.value, key, home, headers=headers
                )
            await sent
        except REFUSED_AS_TOO_LARGE:
            size = record_bytes(key, record.value, headers)
            await self.dead_letter(
                entry,
                RecordTooLarge(
                    f"{record.topic} takes no record of the {size} bytes that it has with the "
                    "header by which it is put at its user's partition: shorten it, or key it by "
                    "its user"
                ),
            )
            return
        except KafkaError as error:
            raise LaneLost(f"a record could not be put at its partition: {error!r}") from error
        self._services.metrics.put_right.inc()
        entry.finish()
