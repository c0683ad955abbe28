"""Has a program read what became of all sessions of a user: their states, from log to view."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final, Self

import structlog

from millstream.agents.sessions.manager import SessionStore
from millstream.schemas.base import Address
from millstream.schemas.errors import ForeignKey, ServiceUnavailable
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.sessions.states import LifecycleState, SessionState
from millstream.schemas.topics import SESSION_STATES
from millstream.streams.bus.api import NOW, EventBus, EventFilter, FromOffset

__all__ = ["StatesOfAll"]

_BEGIN_MAX_S: Final = 5.0
_WRITE_MAX_S: Final = 60.0
_AT_ONCE_MAX: Final = 32
"""Writes to the view that are under way at a time: what is read waits for room among them."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class StatesOfAll:
    """The states that a command for all sessions of a user makes, which stand from `begin` on.

    Nothing is gathered: each is handed to the view as it is read, whose own guard decides whether
    it is news. `begin` is `None` where Kafka did not say where the log ends.
    """

    bus: EventBus
    store: SessionStore
    command: SessionCommand
    begin: Address | None
    _changed: int = field(default=0, init=False)

    @classmethod
    async def before(cls, command: SessionCommand, bus: EventBus, store: SessionStore) -> Self:
        """Take note of where the log ends before the command is sent."""
        begin: Address | None = None
        try:
            async with asyncio.timeout(_BEGIN_MAX_S):
                (begin,) = await bus.starts((SESSION_STATES,), NOW, _filter_of(command))
        except (ServiceUnavailable, TimeoutError) as error:
            # The command finds it out for itself, and says whether its outcome is known.
            _log.warning("the end of a log is not known", topic=SESSION_STATES.name, error=error)
        return cls(bus, store, command, begin)

    async def write_through(self, sessions: int, *, is_fresh: bool) -> None:
        """Hand over what was made until now; `sessions` is how many the command changed.

        A command that is sent again under its id may have changed them long ago: unless it
        `is_fresh`, no more is waited for than what stands on the log. A view that is away is made
        up for by whoever feeds it.
        """
        if self.begin is None or not sessions:
            return
        try:
            async with asyncio.timeout(_WRITE_MAX_S):
                await self._read(self.begin, sessions if is_fresh else 0)
        except (ServiceUnavailable, TimeoutError) as error:
            _log.warning("the view of a user's sessions is behind", reason=str(error))

    async def _read(self, begin: Address, wanted: int) -> None:
        mine = _filter_of(self.command)
        newest = await self.bus.history(topics=(SESSION_STATES,), filter=mine, limit=1)
        until = newest[-1].address.offset if newest else -1
        if until < begin.offset and not wanted:
            return
        places = asyncio.Semaphore(_AT_ONCE_MAX)
        since = FromOffset(begin.offset, begin.partition)
        failed: list[ServiceUnavailable] = []
        async with (
            asyncio.TaskGroup() as writes,
            self.bus.tail((SESSION_STATES,), since, mine) as coming,
        ):
            async for delivery in coming:
                if isinstance(state := delivery.event, SessionState):
                    await places.acquire()
                    writes.create_task(self._put(state, places, failed))
                    self._changed += state.state == self._goal and _is_new(state)
                if failed or (delivery.address.offset >= until and self._changed >= wanted):
                    break
        if failed:
            raise failed[0]

    async def _put(
        self, state: SessionState, places: asyncio.Semaphore, failed: list[ServiceUnavailable]
    ) -> None:
        try:
            await self.store.put_state(state)
        except ForeignKey as error:  # stops no other
            _log.warning("a session's view is behind", reason=str(error))
        except ServiceUnavailable as error:
            failed.append(error)
        finally:
            places.release()

    @property
    def _goal(self) -> LifecycleState:
        return "closed" if self.command.operation == "close" else "deleted"


def _is_new(state: SessionState) -> bool:
    """Tell whether a state was made by a command that ends sessions, not written anew later.

    One that was closed before, and now without `drain`, is in its state since then.
    """
    barrier = state.barrier
    return state.since_ms == state.at_ms or (
        barrier is not None and barrier.until_ms >= state.at_ms
    )


def _filter_of(command: SessionCommand) -> EventFilter:
    return EventFilter(tenant=command.tenant, user_id=command.user_id)
