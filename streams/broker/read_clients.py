"""The clients of Kafka that a reader of partitions needs."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from millstream.streams.broker.clients import committed_consumer, ends_consumer
from millstream.streams.broker.raw_broker import RawBroker

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

__all__ = ["RECORDS_AT_ONCE", "KafkaEnds", "KafkaReadClients", "assign_paused"]

RECORDS_AT_ONCE = 128
"""Most records that are taken from a consumer together: what was read is still in the processor's
cache when it is used. A thousand take twice the time."""


class KafkaReadClients:
    """Makes them from the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def address(self) -> str:
        """Where Kafka is."""
        return self._settings.kafka

    def consumer(self) -> AIOKafkaConsumer:
        """Make a consumer of committed records."""
        return committed_consumer(self._settings)

    def ends(self) -> KafkaEnds:
        """Make what asks where partitions end."""
        return KafkaEnds(self._settings)


class KafkaEnds:
    """Asks where partitions end, by one client. All raise `KafkaError`."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = ends_consumer(settings)

    async def start(self) -> None:
        """Connect."""
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._consumer.stop()

    async def high_watermarks(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the offsets behind the last records."""
        # Then it learns of all their topics at once, not of one after the other.
        assign_paused(self._consumer, partitions)
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(partitions)
        return ends

    async def log_start_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the oldest offsets that are not removed."""
        assign_paused(self._consumer, partitions)
        starts: dict[TopicPartition, int] = await self._consumer.beginning_offsets(partitions)
        return starts

    async def stable_ends(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the last stable offsets; ask for the high watermarks first.

        So the client has just learned who leads the partitions: another one would wait for that.
        """
        raw = RawBroker(self._consumer._client)  # noqa: SLF001  it has no public way
        return await raw.stable_ends(partitions)


def assign_paused(consumer: Any, partitions: Collection[TopicPartition]) -> None:
    """Assign without an await between: nothing is fetched yet.

    Else it would be, from the beginning, and a fetch that finds nothing holds up all that is asked
    behind it for as long as it may wait for records.
    """
    consumer.assign(partitions)
    consumer.pause(*partitions)
