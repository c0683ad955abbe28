"""The event bus in memory: the same bus over a log that is gone when the process ends."""

from __future__ import annotations

from millstream.streams.bus.api import BusHooks
from millstream.streams.bus.log_bus import LogBus
from millstream.streams.bus.memory import MemoryBroker, MemoryLog
from millstream.streams.settings import Settings

__all__ = ["MemoryBus"]


class MemoryBus(LogBus):
    """A bus over `broker`, which several of them may share, as processes share a Kafka."""

    def __init__(
        self, settings: Settings, broker: MemoryBroker, hooks: BusHooks | None = None
    ) -> None:
        super().__init__(settings, MemoryLog(broker), hooks or BusHooks())
