"""Asking brokers by hand: leaders, and raw batches with the markers that consumers do not show."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import IncompatibleBrokerVersion, LeaderNotAvailableError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.memory_records import MemoryRecords

from millstream.streams.broker.clients import raw_client
from millstream.streams.settings import Settings

__all__ = ["RawBroker", "raw_log"]

_FETCH_BYTES = 1 << 20
_UNCOMMITTED = 0
_COMMITTED = 1
_LATEST = -1


class RawBroker:
    """Partitions as they stand on their leaders, open transactions and markers included.

    All raise `KafkaError` where a broker does not answer, denies it, or is not the leader any more:
    then `refresh` before the next try.
    """

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client

    async def refresh(self) -> None:
        """Learn the leaders anew."""
        await self._client.force_metadata_update()

    def leader(self, where: TopicPartition) -> int:
        """Give the node that leads a partition."""
        node = self._client.cluster.leader_for_partition(where)
        if node is None or node < 0:
            raise LeaderNotAvailableError(f"{where.topic}-{where.partition}")
        return int(node)

    async def partitions_of(self, topic: str) -> list[TopicPartition]:
        """Give a topic's partitions, none if there is no such topic or it may not be seen."""
        await self._client.add_topic(topic)
        found = self._client.cluster.partitions_for_topic(topic) or set()
        return [TopicPartition(topic, partition) for partition in sorted(found)]

    async def ask(self, node: int, request: Any) -> Any:
        """Send a request to a node."""
        try:
            return await self._client.send(node, request)
        except NotImplementedError as error:  # of a broker that knows newer versions only
            raise IncompatibleBrokerVersion(str(error)) from error

    async def coordinator(self, transactional_id: str) -> int:
        """Give the node that coordinates a transactional id."""
        return int(
            await self._client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
        )

    async def stable_ends(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Give the last stable offsets: where the first open transaction begins, else the end."""
        return await self._offsets(places, _LATEST, _COMMITTED)

    async def batches(
        self, where: TopicPartition, *, from_offset: int | None = None, since_ms: int = 0
    ) -> AsyncGenerator[Any, None]:
        """Yield raw batches from an offset on, or from the first record not older than a time.

        Up to the end as it is at the call: the high watermark.
        """
        end = (await self._offsets([where], _LATEST))[where]
        found = from_offset
        if found is None:
            found = (await self._offsets([where], since_ms))[where]
        offset = end if found < 0 else found
        while offset < end:
            got = offset
            for batch in await self._fetch(where, offset):
                got = batch.next_offset
                if got > offset:  # the first one may begin before what was asked for
                    yield batch
            if got == offset:
                return
            offset = got

    async def _offsets(
        self, places: Collection[TopicPartition], time_ms: int, isolation: int = _UNCOMMITTED
    ) -> dict[TopicPartition, int]:
        by_leader: dict[int, list[TopicPartition]] = defaultdict(list)
        for where in places:
            by_leader[self.leader(where)].append(where)
        found = {}
        for node, led in by_leader.items():
            wanted = [(one.topic, [(one.partition, time_ms)]) for one in led]
            response = await self.ask(node, OffsetRequest(-1, isolation, wanted))
            for topic, partitions in response.topics:
                for partition, error_code, _, offset in partitions:
                    if error_code:
                        raise for_code(error_code)(f"{topic}-{partition}")
                    found[TopicPartition(topic, partition)] = int(offset)
        return found

    async def _fetch(self, where: TopicPartition, offset: int) -> list[Any]:
        wanted = [(where.topic, [(where.partition, offset, _FETCH_BYTES)])]
        request = FetchRequest(0, 1, _FETCH_BYTES, _UNCOMMITTED, wanted)
        response = await self.ask(self.leader(where), request)
        partition = response.topics[0][1][0]
        if partition[1]:
            raise for_code(partition[1])(f"{where.topic}-{where.partition}")
        records, batches = MemoryRecords(partition[-1] or b""), []
        while (batch := records.next_batch()) is not None:
            batches.append(batch)
        return batches


@asynccontextmanager
async def raw_log(settings: Settings, topics: Collection[str]) -> AsyncGenerator[RawBroker, None]:
    """Connect; `topics` are those whose leaders are to be known. Raises `KafkaError`."""
    client = raw_client(settings)
    try:
        await client.bootstrap()
        await client.set_topics(list(topics))
        yield RawBroker(client)
    finally:
        await asyncio.shield(client.close())
