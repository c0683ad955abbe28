"""The newest checkpoints of all lanes of a worker in memory, within one bound.

A bound for each lane would be multiplied by the lanes that a worker happens to own.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from typing import Final

from millstream.schemas.events import CheckpointSaved
from millstream.streams.wire.keys import SessionKey, session_key

__all__ = ["OBJECT_BYTES", "CheckpointCache", "LaneCheckpoints"]

OBJECT_BYTES: Final = 2000
"""What a checkpoint takes in memory beside its data: 1.5 kB as an object, the rest its place."""

CACHE_BYTES: Final = 32 * 1024 * 1024
"""Of all lanes: some 10,000 sessions of a few messages. Redis and the log have the others."""


class CheckpointCache:
    """Keeps checkpoints up to `bytes_max` in memory, whole objects counted.

    Beyond that the one that was kept longest ago goes, of whichever lane.
    """

    def __init__(self, *, bytes_max: int = CACHE_BYTES) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[tuple[int, SessionKey], CheckpointSaved] = OrderedDict()
        self._numbers = count()
        self.bytes = 0

    def __len__(self) -> int:
        """How many checkpoints are kept."""
        return len(self._kept)

    def of_lane(self) -> LaneCheckpoints:
        """Give the part of a lane that begins now: it has none."""
        return LaneCheckpoints(self, next(self._numbers))

    def get(self, lane: int, session: SessionKey) -> CheckpointSaved | None:
        """Give what a lane kept of a session."""
        return self._kept.get((lane, session))

    def keep(self, lane: int, checkpoint: CheckpointSaved) -> None:
        """Keep a checkpoint in the place of its session's last one."""
        key = (lane, session_key(checkpoint))
        self._forget(key)
        self._kept[key] = checkpoint
        self.bytes += _bytes_of(checkpoint)
        while self.bytes > self._bytes_max:
            self._forget(next(iter(self._kept)))

    def forget_lane(self, lane: int) -> None:
        """Forget all that a lane kept."""
        for key in [key for key in self._kept if key[0] == lane]:
            self._forget(key)

    def _forget(self, key: tuple[int, SessionKey]) -> None:
        forgotten = self._kept.pop(key, None)
        if forgotten is not None:
            self.bytes -= _bytes_of(forgotten)


class LaneCheckpoints:
    """A lane's part of its worker's cache; ends with the lane."""

    def __init__(self, cache: CheckpointCache, lane: int) -> None:
        self._cache = cache
        self._lane = lane

    def get(self, session: SessionKey) -> CheckpointSaved | None:
        """Give the newest checkpoint that the lane kept of a session, if it is still there."""
        return self._cache.get(self._lane, session)

    def keep(self, checkpoint: CheckpointSaved) -> None:
        """Remember a checkpoint that was just committed."""
        self._cache.keep(self._lane, checkpoint)

    def close(self) -> None:
        """Forget all of it."""
        self._cache.forget_lane(self._lane)


def _bytes_of(checkpoint: CheckpointSaved) -> int:
    return len(checkpoint.data) + OBJECT_BYTES
