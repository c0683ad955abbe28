"""The event bus in memory: the same bus over a log that is gone when the process ends."""

from __future__ import annotations

from streams.bus import BusHooks
from streams.log_bus import LogBus
from streams.memory_log import MemoryBroker, MemoryLog
from streams.settings import Settings

__all__ = ["MemoryBus"]


class MemoryBus(LogBus):
    """A bus over `broker`, which several of them may share, as processes share a Kafka."""

    def __init__(
        self, settings: Settings, broker: MemoryBroker, hooks: BusHooks | None = None
    ) -> None:
        super().__init__(settings, MemoryLog(broker), hooks or BusHooks())
