"""`SessionManager`: a program's way to sessions, over the log and its view, or twins in memory.

A change is a command that the lane of the user's partition decides; what it decided is the answer.
What is read comes from the view, which may be behind, save for what this manager was answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

import structlog

from millstream.agents.sessions.manager import (
    ANY_SESSION,
    PAGE_SESSIONS_MAX,
    SessionCheckpoint,
    SessionFilter,
    SessionInfo,
    SessionOrder,
    SessionPage,
    SessionStats,
    SessionStore,
)
from millstream.schemas.base import DEFAULT_TENANT
from millstream.schemas.errors import ForeignKey, ServiceUnavailable
from millstream.schemas.sessions.commands import SessionCommand, SessionOperation
from millstream.schemas.sessions.errors import SessionInputInvalid, SessionUnknown
from millstream.schemas.sessions.states import SessionAnswered
from millstream.streams.bus.api import EventBus
from millstream.streams.sessions.all_states import StatesOfAll
from millstream.streams.sessions.asking import SessionCommands
from millstream.streams.sessions.head_checkpoint import HeadCheckpoints
from millstream.streams.sessions.inputs import (
    Ttl,
    check_list,
    checked_id,
    checked_tenant,
    command_of,
    id_of_created,
)
from millstream.streams.sessions.outcomes import Asked, SessionOutcome, outcome_of

if TYPE_CHECKING:
    from millstream.agents.sessions.conversation import ConversationMessage

__all__ = ["SessionManager"]

TIMEOUT_S: Final = 10.0
ALL_TIMEOUT_S: Final = 120.0

_log = structlog.get_logger(__name__)


class SessionManager:
    """Sessions by user, of any number of tenants; a session of another user does not exist.

        async with KafkaBus(settings) as bus, SessionManager(bus, store) as sessions:
            session = await sessions.create("ada", ttl=timedelta(hours=1))

    Safe for any number of concurrent callers, in any number of processes: the order on the log is
    the order of the outcomes. What only reads needs no `async with`.

    Commands raise `SessionInputInvalid`, with nothing sent; the other kinds of `SessionRefused`,
    with nothing done (`schemas/sessions/transitions.py` says when); and `SessionOutcomeUnknown`
    where no answer came within `timeout_s`. They take `by` and `why`, who asks and for what reason,
    and a `command_id` under which a command can be sent again with no second effect. Reads raise
    `ServiceUnavailable` where the view does not answer.
    """

    def __init__(self, bus: EventBus, store: SessionStore, *, timeout_s: float = TIMEOUT_S) -> None:
        self._bus = bus
        self._store = store
        self._timeout_s = timeout_s
        self._commands = SessionCommands(bus)
        self._checkpoints = HeadCheckpoints(bus, store)

    async def __aenter__(self) -> Self:
        """Begin to read answers."""
        await self._commands.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Read no more; whoever still waits is told that the outcome is unknown."""
        await self._commands.__aexit__(*exc_info)

    async def create(
        self,
        user_id: str,
        session_id: str | None = None,
        *,
        tenant: str = DEFAULT_TENANT,
        ttl: Ttl | None = None,
        metadata: Mapping[str, str] | None = None,
        **asked: Unpack[Asked],
    ) -> SessionOutcome:
        """Create a session; one without an id gets a ULID, under a `command_id` always the same.

        `ttl` is how long it lives: a number of seconds, or a `timedelta`, without being used, or a
        `SessionTtl`. Raises `SessionExists`, also where it came into being with a request, and
        `SessionDeleted`: an id is not used again.
        """
        name = id_of_created(asked.get("command_id")) if session_id is None else session_id
        return await self._one("create", user_id, name, tenant, asked, ttl=ttl, metadata=metadata)

    async def touch(
        self,
        user_id: str,
        session_id: str,
        *,
        tenant: str = DEFAULT_TENANT,
        **asked: Unpack[Asked],
    ) -> SessionOutcome:
        """Count the session as used now, for its time to live."""
        return await self._one("touch", user_id, session_id, tenant, asked)

    async def update(
        self,
        user_id: str,
        session_id: str,
        *,
        tenant: str = DEFAULT_TENANT,
        ttl: Ttl | None = None,
        metadata: Mapping[str, str] | None = None,
        **asked: Unpack[Asked],
    ) -> SessionOutcome:
        """Give the session another time to live or other metadata; `None` leaves it as it is.

        Each takes the place of the old one as a whole: `SessionTtl()` is no limit, `{}` nothing.
        """
        if ttl is None and metadata is None:
            message = "there is nothing to update: give ttl, metadata, or both"
            raise SessionInputInvalid(message)
        return await self._one(
            "update", user_id, session_id, tenant, asked, ttl=ttl, metadata=metadata
        )

    async def close(
        self,
        user_id: str,
        session_id: str,
        *,
        tenant: str = DEFAULT_TENANT,
        drain: bool = False,
        **asked: Unpack[Asked],
    ) -> SessionOutcome:
        """Close the session: the run that is on ends, what waits is rejected, or runs with `drain`.

        A closed session takes no request until it is reopened. Closed again without `drain`, what
        still waits of it is rejected; the other way round nothing changes.
        """
        return await self._one("close", user_id, session_id, tenant, asked, drain=drain)

    async def reopen(
        self,
        user_id: str,
        session_id: str,
        *,
        tenant: str = DEFAULT_TENANT,
        **asked: Unpack[Asked],
    ) -> SessionOutcome:
        """Open a closed or expired session again, with the conversation that it had."""
        return await self._one("reopen", user_id, session_id, tenant, asked)

    async def expire(
        self,
        user_id: str,
        session_id: str,
        *,
        tenant: str = DEFAULT_TENANT,
        **asked: Unpack[Asked],
    ) -> SessionOutcome:
        """End the session's time to live now. Raises `SessionBusy` while a run is on or waits."""
        return await self._one("expire", user_id, session_id, tenant, asked)

    async def delete(
        self,
        user_id: str,
        session_id: str,
        *,
        tenant: str = DEFAULT_TENANT,
        **asked: Unpack[Asked],
    ) -> SessionOutcome:
        """Delete the session, for good: what runs or waits of it is cancelled.

        The view forgets it at once, the log by its retention.
        """
        return await self._one("delete", user_id, session_id, tenant, asked)

    async def name_checkpoint(
        self,
        user_id: str,
        session_id: str,
        turn: int,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        **asked: Unpack[Asked],
    ) -> SessionOutcome:
        """Name the checkpoint of a turn. Raises `NameTaken` and `CheckpointUnknown`."""
        place = await self._place_of(user_id, session_id, tenant, turn)
        return await self._one(
            "name_checkpoint",
            user_id,
            session_id,
            tenant,
            asked,
            turn=turn,
            name=name,
            checkpoint_offset=place,
        )

    async def restore(
        self,
        user_id: str,
        session_id: str,
        *,
        turn: int | None = None,
        name: str | None = None,
        tenant: str = DEFAULT_TENANT,
        **asked: Unpack[Asked],
    ) -> SessionOutcome:
        """Go back to the checkpoint of a turn, or to a named one: the next run begins from it.

        That is a turn by itself: the outcome's `turn` is the newest. Raises `CheckpointUnknown`,
        and `SessionBusy` while a run is on or waits.
        """
        place = await self._place_of(user_id, session_id, tenant, turn)
        return await self._one(
            "restore",
            user_id,
            session_id,
            tenant,
            asked,
            turn=turn,
            name=name,
            checkpoint_offset=place,
        )

    async def close_all(
        self,
        user_id: str,
        *,
        tenant: str = DEFAULT_TENANT,
        drain: bool = False,
        timeout_s: float = ALL_TIMEOUT_S,
        **asked: Unpack[Asked],
    ) -> int:
        """Close all sessions that the user has now, and tell how many were closed by it."""
        command = command_of("close", user_id, None, tenant=tenant, drain=drain, **asked)
        return await self._all(command, timeout_s, is_fresh=asked.get("command_id") is None)

    async def delete_all(
        self,
        user_id: str,
        *,
        tenant: str = DEFAULT_TENANT,
        timeout_s: float = ALL_TIMEOUT_S,
        **asked: Unpack[Asked],
    ) -> int:
        """Delete all sessions that the user has now, and tell how many were deleted by it."""
        command = command_of("delete", user_id, None, tenant=tenant, **asked)
        return await self._all(command, timeout_s, is_fresh=asked.get("command_id") is None)

    async def get(
        self, user_id: str, session_id: str, *, tenant: str = DEFAULT_TENANT
    ) -> SessionInfo | None:
        """Give what the view has of a session, `None` if the user has no such session.

        It is a question, so nothing is raised, where `messages`, `checkpoints` and every command
        raise `SessionUnknown`: they can do nothing without it.
        """
        return await self._store.get(*_names(tenant, user_id, session_id))

    async def list(
        self,
        user_id: str,
        *,
        tenant: str = DEFAULT_TENANT,
        limit: int = PAGE_SESSIONS_MAX,
        after: str | None = None,
        order: SessionOrder = "newest",
        wanted: SessionFilter = ANY_SESSION,
    ) -> SessionPage:
        """Give a page of 1 to `PAGE_SESSIONS_MAX` of the user's sessions that are `wanted`.

        No page skips or repeats a session, whatever happens to them meanwhile. Raises
        `SessionInputInvalid` for another limit, a filter that no session can pass, or an `after`
        that no page of this user, order and filter gave.
        """
        check_list(limit, after, order, wanted)
        return await self._store.list(
            checked_tenant(tenant),
            checked_id("user_id", user_id),
            limit=limit,
            after=after,
            order=order,
            wanted=wanted,
        )

    async def checkpoints(
        self, user_id: str, session_id: str, *, tenant: str = DEFAULT_TENANT
    ) -> tuple[SessionCheckpoint, ...]:
        """Give the session's checkpoints that are still kept, the newest first.

        Raises `SessionUnknown`.
        """
        names = _names(tenant, user_id, session_id)
        found = await self._store.checkpoints(*names)
        if not found and await self._store.get(*names) is None:
            raise SessionUnknown.of(user_id, session_id)
        return found

    async def stats(
        self, user_id: str | None = None, *, tenant: str = DEFAULT_TENANT
    ) -> SessionStats:
        """Count and add up a user's sessions; without a user, everybody's of all tenants."""
        if user_id is None:
            return await self._store.stats_of_all()
        return await self._store.stats(checked_tenant(tenant), checked_id("user_id", user_id))

    async def lacks(self) -> str | None:
        """Say why what is read may lack sessions, in a sentence; `None`: it has all that there are.

        So it is while workers make the view up from the log, after Redis was emptied.
        """
        return await self._store.lacks()

    async def messages(
        self, user_id: str, session_id: str, *, tenant: str = DEFAULT_TENANT
    ) -> tuple[ConversationMessage, ...]:
        """Give the conversation as the next run would find it, oldest message first.

        Its checkpoint is the one that the session's head names, from the view or else from the log.
        Raises `SessionUnknown`, `CheckpointUnknown` where it is no longer kept, and
        `CheckpointUnreadable`.
        """
        from millstream.agents.sessions.conversation import (  # noqa: PLC0415  slow to import
            conversation_of,
        )

        tenant, user_id, session_id = _names(tenant, user_id, session_id)
        saved = await self._checkpoints.newest(tenant, user_id, session_id)
        return () if saved is None else conversation_of(saved)

    async def _one(
        self,
        operation: SessionOperation,
        user_id: str,
        session_id: str,
        tenant: str,
        asked: Asked,
        **given: Any,
    ) -> SessionOutcome:
        command = command_of(operation, user_id, session_id, tenant=tenant, **given, **asked)
        answer = await self._commands.ask(command, self._timeout_s)
        await self._write_through(answer)
        return outcome_of(answer, command)

    async def _all(self, command: SessionCommand, timeout_s: float, *, is_fresh: bool) -> int:
        states = await StatesOfAll.before(command, self._bus, self._store)
        answer = await self._commands.ask(command, timeout_s)
        count = answer.sessions or 0
        await states.write_through(count, is_fresh=is_fresh)
        return count

    async def _place_of(
        self, user_id: str, session_id: str, tenant: str, turn: int | None
    ) -> int | None:
        """Give where the view has a turn's checkpoint: it spares the lane a search of the log."""
        if turn is None:
            return None
        try:
            known = await self._store.checkpoints(*_names(tenant, user_id, session_id))
        except ServiceUnavailable:
            return None
        return next((one.offset for one in known if one.turn == turn), None)

    async def _write_through(self, answer: SessionAnswered) -> None:
        """Have this process read what it was answered; the view's feed writes the same later."""
        if answer.operation == "restore":
            names = (answer.tenant, answer.user_id, answer.session_id or "")
            self._checkpoints.note_restored(*names, answer.turn)
        try:
            if answer.session is not None:
                await self._store.put_state(answer.session)
        except (ServiceUnavailable, ForeignKey) as error:
            # It is done: the view alone is behind, and is made up for by whoever feeds it.
            _log.warning("a session's view is behind", reason=str(error))


def _names(tenant: str, user_id: str, session_id: str) -> tuple[str, str, str]:
    return (
        checked_tenant(tenant),
        checked_id("user_id", user_id),
        checked_id("session_id", session_id),
    )
