"""The checkpoint that a session's head names: from the view, or else from the log."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from millstream.agents.sessions.manager import SessionStore
from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.events import CheckpointSaved, SessionUpdated
from millstream.schemas.sessions.errors import CheckpointUnknown, SessionUnknown
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import CHECKPOINTS, SESSION_STATES, SESSIONS
from millstream.streams.bus.api import EventBus, EventFilter, FromOffset
from millstream.streams.wire.digests import digest_of

__all__ = ["HeadCheckpoints"]

_LOOK_MAX_S: Final = 5.0
_RESTORED_MAX: Final = 1000
"""Sessions of which it is remembered that the view has to be as new as a restore of ours."""


class HeadCheckpoints:
    """Finds the checkpoints from which sessions go on."""

    def __init__(self, bus: EventBus, store: SessionStore) -> None:
        self._bus = bus
        self._store = store
        self._restored: OrderedDict[tuple[str, str, str], int] = OrderedDict()

    def note_restored(self, tenant: str, user_id: str, session_id: str, turn: int) -> None:
        """Take note that a restore made this turn of a session: the view is a moment behind."""
        self._restored[tenant, user_id, session_id] = turn
        if len(self._restored) > _RESTORED_MAX:
            self._restored.popitem(last=False)

    async def newest(self, tenant: str, user_id: str, session_id: str) -> CheckpointSaved | None:
        """Give the checkpoint that the next run would begin from, `None` before the first turn.

        Raises `SessionUnknown`, `CheckpointUnknown` where neither view nor log has it, and
        `ServiceUnavailable` where the log does not answer either.
        """
        try:
            info = await self._store.get(tenant, user_id, session_id)
            stored = await self._store.get_checkpoint(tenant, user_id, session_id)
        except ServiceUnavailable:  # the log has it too
            info = stored = None
        newest = self._restored.get((tenant, user_id, session_id), 0)
        if info is not None and stored is not None and info.turn >= newest:
            found = stored.event
            if found.checkpoint_id == info.checkpoint_id:
                return found
        wanted = EventFilter(tenant=tenant, user_id=user_id, session_id=session_id)
        try:
            async with asyncio.timeout(_LOOK_MAX_S) as limit:
                head = await self._head(wanted)
                return None if head is None else await self._named_by(head, wanted)
        except TimeoutError as error:
            if not limit.expired():
                raise
            message = (
                f"the checkpoint of session {session_id!r} was not found on the log within "
                f"{_LOOK_MAX_S:g} s: its retention is over, or Kafka does not answer"
            )
            raise CheckpointUnknown(message) from error

    async def _head(self, wanted: EventFilter) -> SessionUpdated | None:
        heads, states = await asyncio.gather(
            *(
                self._bus.history(topics=(spec,), filter=wanted, limit=1)
                for spec in (SESSIONS, SESSION_STATES)
            )
        )
        head = heads[-1].event if heads else None
        state = states[-1].event if states else None
        is_deleted = isinstance(state, SessionState) and state.state == "deleted"
        if is_deleted or (head is None and state is None):
            raise SessionUnknown.of(wanted.user_id or "", wanted.session_id or "")
        return head if isinstance(head, SessionUpdated) else None

    async def _named_by(self, head: SessionUpdated, wanted: EventFilter) -> CheckpointSaved:
        since = FromOffset(head.checkpoint_offset_min)
        async with self._bus.tail((CHECKPOINTS,), since, wanted) as coming:
            async for delivery in coming:
                event = delivery.event
                if isinstance(event, CheckpointSaved) and _is_of(head, event):
                    return event
        message = "the bus was stopped before the checkpoint was found"
        raise ServiceUnavailable(message)


def _is_of(head: SessionUpdated, saved: CheckpointSaved) -> bool:
    if saved.checkpoint_id != head.checkpoint_id:
        return False
    return head.checkpoint_digest is None or digest_of(saved) == head.checkpoint_digest
