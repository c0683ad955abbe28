"""Records that are not served where they stand: buried as dead letters, or moved."""

from __future__ import annotations

import asyncio

import structlog
from aiokafka.errors import KafkaError

from millstream.schemas.errors import LaneLost, Poison
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.wire.codec import ORIGIN
from millstream.streams.wire.headers import forwarded_headers
from millstream.streams.wire.records import InputRecord, dead_letter, unreadable_places

__all__ = ["RecordRouter"]

log = structlog.get_logger(__name__)


class RecordRouter:
    """Buries records as dead letters, or puts them at their user's partition."""

    def __init__(self, services: LaneServices, *, writer: LaneWriter) -> None:
        self._services = services
        self._sending = asyncio.Lock()
        self._writer = writer

    async def dead_letter(self, entry: Entry[InputRecord], poison: Poison) -> None:
        """Commit a record's dead letter, and acknowledge the record then."""
        letter = dead_letter(entry.record, poison, at_ms=self._services.clock_ms())
        log.warning("dead letter", source=str(entry.record.address), reason=str(poison))
        await self._writer.commit([letter])
        entry.finish()

    async def reroute(
        self,
        entry: Entry[InputRecord],
        partition_key: str,
        home: int,
        origin: tuple[str, bytes],
    ) -> None:
        """Send a record to partition `home`, and acknowledge it then. Raises `LaneLost`."""
        # A plain send: only lane `home` may write to partition `home` in a transaction. Sent
        # again after a crash it is the same request, since it keeps the id of its origin.
        record = entry.record
        replaced = (ORIGIN, *unreadable_places(record))
        headers = forwarded_headers(record.headers, replaced=replaced)
        try:
            # One after the other: a send that waits for where its topic is would be overtaken.
            async with self._sending:
                sent = await self._services.producer.send(
                    record.topic,
                    record.value,
                    partition_key.encode(),
                    home,
                    headers=[*headers, origin],
                )
            await sent
        except KafkaError as error:
            raise LaneLost(f"a record could not be put at its partition: {error!r}") from error
        self._services.metrics.put_right.inc()
        entry.finish()
