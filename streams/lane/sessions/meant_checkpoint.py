"""Finding the checkpoint that a command on a session means: by its name, or by its turn."""

from __future__ import annotations

from typing import Final

from millstream.schemas.errors import LaneLost, ServiceUnavailable
from millstream.schemas.events import SessionUpdated
from millstream.schemas.sessions.commands import SessionCommand
from millstream.streams.lane.output.checkpoint_log import CheckpointLog
from millstream.streams.lane.sessions.decisions import FoundCheckpoint
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.wire.keys import SessionKey

__all__ = ["MeantCheckpoint"]

_CLOCKS_APART_MS: Final = 3_600_000
"""A head has its time from a worker's clock, the log from the broker's."""


class MeantCheckpoint:
    """Looks for what commands mean on the log of one partition's checkpoints."""

    def __init__(self, state: LaneState, checkpoints: CheckpointLog) -> None:
        self._state = state
        self._checkpoints = checkpoints

    async def find(self, key: SessionKey, command: SessionCommand) -> FoundCheckpoint | None:
        """Give the checkpoint that a command means, `None` if there is none. Raises `LaneLost`.

        The session is in memory.
        """
        if command.operation not in {"restore", "name_checkpoint"}:
            return None
        head, state = self._state.heads.get(key), self._state.session_states.get(key)
        if head is None:
            return None
        if command.operation == "restore" and command.name is not None:
            names = () if state is None else state.names
            named = next((one for one in names if one.name == command.name), None)
            if named is None:
                return None
            wanted = head.model_copy(
                update={
                    "checkpoint_id": named.checkpoint_id,
                    "checkpoint_offset_min": named.offset_min,
                }
            )
            saved = await self._checkpoints.find(wanted)
            return None if saved is None else FoundCheckpoint(saved, named.offset_min)
        if command.turn == head.turn:
            saved = await self._checkpoints.find(head)
            return None if saved is None else FoundCheckpoint(saved, head.checkpoint_offset_min)
        return await self._of_turn(key, command, head)

    async def _of_turn(
        self, key: SessionKey, command: SessionCommand, head: SessionUpdated
    ) -> FoundCheckpoint | None:
        turn = command.turn or 0
        if turn > head.turn:  # it need not be looked for
            return None
        try:
            found = await self._checkpoints.find_turn(
                key,
                turn,
                near=command.checkpoint_offset,
                since_ms=max(0, head.created_at_ms - _CLOCKS_APART_MS),
            )
        except ServiceUnavailable as error:
            raise LaneLost(f"a checkpoint cannot be read: {error}") from error
        return None if found is None else FoundCheckpoint(*found)
