"""Records that a lane does not serve: those it cannot read, and those that belong elsewhere."""

from __future__ import annotations

import structlog
from aiokafka.errors import KafkaError

from millstream.schemas.errors import LaneLost, Poison
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.output.writer import LaneOutput
from millstream.streams.wire.records import InputRecord, dead_letter

log = structlog.get_logger(__name__)


class LaneStrays:
    """Buries records as dead letters, or puts them at their user's partition."""

    def __init__(self, services: LaneServices, *, output: LaneOutput) -> None:
        self._services = services
        self._output = output

    async def bury(self, entry: Entry[InputRecord], poison: Poison) -> None:
        """Commit a record's dead letter, and acknowledge the record then."""
        letter = dead_letter(entry.record, poison, at_ms=self._services.clock_ms())
        log.warning("dead letter", source=str(entry.record.address), reason=str(poison))
        await self._output.commit([letter])
        entry.finish()

    async def put_right(
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
        headers = [pair for pair in record.headers if pair[1] is not None]
        try:
            await self._services.producer.send_and_wait(
                record.topic,
                record.value,
                partition_key.encode(),
                home,
                headers=[*headers, origin],
            )
        except KafkaError as error:
            raise LaneLost(f"a record could not be put at its partition: {error!r}") from error
        self._services.metrics.put_right.inc()
        entry.finish()
