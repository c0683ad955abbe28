"""The bounded queue between the bus's reader and one subscription, and where it reads on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from aiokafka import TopicPartition

from millstream.streams.bus.api import Delivery, EventFilter, Unreadable
from millstream.streams.bus.record_log import Entry, Positions

__all__ = ["DeliveryQueue"]

RECORDS_MAX = 1000
BYTES_MAX = 4 * 1024 * 1024


class DeliveryQueue:
    """Holds deliveries until they are taken: at most `records_max`, and about `bytes_max` bytes.

    `positions` is, by partition, the first offset that was not yet offered to it with success.
    Once it is `full` it takes nothing until half of it is free; then it calls `on_room`. The gap
    between the two keeps the reader from going back for every single record.

    Only one that `takes_unreadable` is given records that cannot be read.
    """

    __slots__ = (
        "_arrived",
        "_bytes",
        "_bytes_max",
        "_on_room",
        "_queue",
        "_records_max",
        "closed",
        "enabled",
        "full",
        "positions",
        "takes_unreadable",
        "wanted",
    )

    def __init__(
        self,
        wanted: EventFilter,
        positions: Positions,
        on_room: Callable[[DeliveryQueue], None],
        *,
        records_max: int = RECORDS_MAX,
        bytes_max: int = BYTES_MAX,
        takes_unreadable: bool = False,
    ) -> None:
        self.wanted = wanted
        self.takes_unreadable = takes_unreadable
        self.positions = dict(positions)
        self.enabled = True
        self.full = False
        self.closed = False
        self._on_room = on_room
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._queue: deque[tuple[Entry, int]] = deque()
        self._bytes = 0
        self._arrived: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Deliveries that wait."""
        return len(self._queue)

    def put_if_wanted(self, source: TopicPartition, entry: Entry, size_bytes: int) -> bool:
        """Take a record if it is wanted; if there is no room, note it as the one to come next.

        Tells whether it is wanted.
        """
        if not self.enabled or not self._wants(entry):
            return False
        # One that is larger than the whole queue is let into an empty one: it must pass somehow.
        if self._queue and (
            len(self._queue) >= self._records_max or self._bytes + size_bytes > self._bytes_max
        ):
            self.full = True
            self.positions[source] = entry.address.offset
            return True
        self._queue.append((entry, size_bytes))
        self._bytes += size_bytes
        self._wake()
        return True

    def _wants(self, entry: Entry) -> bool:
        if isinstance(entry, Unreadable):
            return self.takes_unreadable and self.wanted.matches_unreadable(entry)
        return self.wanted.matches(entry.event)

    async def delivery(self) -> Delivery | None:
        """Wait for the next event; `None` once the queue is closed. For one taker."""
        while (entry := await self.get()) is not None:
            if isinstance(entry, Delivery):
                return entry
        return None

    async def get(self) -> Entry | None:
        """Wait for the next record; `None` once the queue is closed. For one taker."""
        while not self._queue:
            if self.closed:
                return None
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        if self.closed:
            return None
        entry, size_bytes = self._queue.popleft()
        self._bytes -= size_bytes
        self._tell_of_room()
        return entry

    def clear(self) -> None:
        """Forget what waits."""
        self._queue.clear()
        self._bytes = 0
        self._tell_of_room()

    def close(self) -> None:
        """Take and give nothing more; who waits is woken."""
        self.closed = True
        self._wake()

    def _tell_of_room(self) -> None:
        if (
            self.full
            and len(self._queue) * 2 <= self._records_max
            and self._bytes * 2 <= self._bytes_max
        ):
            self.full = False
            self._on_room(self)

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
