"""Where a run's checkpoint comes from: always the last committed one, by the quickest way.

The session's head, which the lane folds from what it committed, says which checkpoint that is.
The worker's memory and Redis are asked only for exactly that one; the log has it in any case.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from aiokafka import TopicPartition

from millstream.schemas.events import CheckpointSaved, SessionUpdated
from millstream.schemas.ports import PeekCheckpoint
from millstream.schemas.runs.errors import CheckpointUnreadable
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.checkpoint_cache import LaneCheckpoints
from millstream.streams.lane.output.checkpoint_log import CheckpointLog, is_named_by
from millstream.streams.wire.digests import digest_of
from millstream.streams.wire.keys import session_key

_log = structlog.get_logger(__name__)


class CheckpointSource:
    """Gives committed checkpoints of one partition; `cached` is the lane's part of the cache."""

    def __init__(
        self,
        *,
        reader: PartitionReader,
        partition: TopicPartition,
        peek: PeekCheckpoint,
        cached: LaneCheckpoints,
        on_altered: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_altered = on_altered
        self._log = CheckpointLog(reader, partition)
        self._partition = partition
        self._peek = peek
        self._cached = cached

    def keep(self, checkpoint: CheckpointSaved) -> None:
        """Remember a checkpoint that was just committed."""
        self._cached.keep(checkpoint)

    def close(self) -> None:
        """Forget what was kept."""
        self._cached.close()

    async def load(self, head: SessionUpdated) -> CheckpointSaved:
        """Give the checkpoint that `head` names.

        Raises `CheckpointUnreadable` if the log no longer has it, and `LaneLost` if the log cannot
        be read now: the run is not to crash_counter.
        """
        cached = self._cached.get(session_key(head))
        if cached is not None and is_named_by(head, cached):
            return cached
        seen = await self._peek(head.tenant, head.user_id, head.session_id)
        if seen is not None and is_named_by(head, seen):
            # Heads of earlier versions have no digest: the log is asked once for each.
            if digest_of(seen) == head.checkpoint_digest:
                return seen
            if head.checkpoint_digest is not None:
                self._on_altered()
                _log.warning(
                    "a checkpoint in Redis was altered; the log's is taken",
                    session_id=head.session_id,
                    checkpoint_id=head.checkpoint_id,
                )
        return await self._from_log(head)

    async def _from_log(self, head: SessionUpdated) -> CheckpointSaved:
        found = await self._log.find(head)
        if found is None:
            raise CheckpointUnreadable(
                f"checkpoint {head.checkpoint_id} of session {head.session_id} is no longer on "
                f"{self._partition.topic}-{self._partition.partition}: its retention has passed"
            )
        return found
