"""The desk where a lane decides on its sessions: each command once, in the order of the log."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import structlog

from millstream.schemas.base import Address, Event, UserKey
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.lane_events import HoldPlaced
from millstream.schemas.sessions.commands import NO_TTL, SessionCommand, SessionTtl
from millstream.schemas.sessions.states import (
    LifecycleState,
    SessionState,
)
from millstream.schemas.topics import CHECKPOINTS, HOLDS, SESSIONS
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.base.tasks import LaneTasks
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.output.checkpoint_log import CheckpointLog
from millstream.streams.lane.output.outcomes import CutOff
from millstream.streams.lane.output.session_gate import ended_as, turned_away
from millstream.streams.lane.output.session_lookup import FoundSession
from millstream.streams.lane.output.writer import Committed, LaneWriter
from millstream.streams.lane.queue.run_queue import RunQueue
from millstream.streams.lane.queue.session_queues import SessionQueues
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.sessions.decisions import Decided, Session, closes_harder, decide
from millstream.streams.lane.sessions.meant_checkpoint import MeantCheckpoint
from millstream.streams.lane.sessions.telling import SessionTelling, changed
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.pauses import Pauses
from millstream.streams.lane.state.sessions.places import place_of
from millstream.streams.wire.codec import Tombstone
from millstream.streams.wire.keys import SessionKey, session_key
from millstream.streams.wire.records import InputRecord, arrived_ms

__all__ = ["SessionDesk"]

log = structlog.get_logger(__name__)

_PUT_OFF: Final = frozenset({"touch", "update", "reopen", "restore"})
"""The operations after which a session may be due later."""


class SessionDesk:
    """Decides on the sessions of one lane's partition.

    What is decided is known here at once, and committed in that order: so a request that is read
    meanwhile meets the session as it will be. `taken_in` gives the offset behind the last request
    that was taken in, and when the broker took it.
    """

    def __init__(
        self,
        context: LaneContext,
        *,
        state: LaneState,
        writer: LaneWriter,
        queue: RunQueue,
        reader: PartitionReader,
        pauses: Pauses,
        taken_in: Callable[[], tuple[int, int]],
    ) -> None:
        self._context = context
        self._services = context.services
        self._state = state
        self._sessions = state.session_states
        self._writer = writer
        self._queue = queue
        self._pauses = pauses
        self._taken_in = taken_in
        self._lookup = writer.sessions
        self._meant = MeantCheckpoint(state, CheckpointLog(reader, context.at(CHECKPOINTS)))
        self._answers = SessionTelling(state, self._services.clock_ms)
        self._users = SessionQueues(context.fail)
        self._put_off: Counter[SessionKey] = Counter()
        """How many commands that may put off a session's end are not decided yet."""
        self._ending: set[SessionKey] = set()
        """Sessions that a request found over, and whose end is not on its way yet."""
        self._tasks = LaneTasks(context.fail)
        self.on_change: Callable[[SessionState], None] = lambda _: None
        """Hears of each session that was created or changed, once that is committed."""
        self.is_used: Callable[[SessionKey], Awaitable[bool]] = _always
        """Tells whether a session may have been used though nothing says so yet."""

    async def close(self) -> None:
        """Cancel everything; nothing is committed any more."""
        await asyncio.gather(self._users.cancel(), self._tasks.cancel(), return_exceptions=True)

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """Give what is under way."""
        return self._users.tasks

    def take(self, entry: Entry[InputRecord], command: SessionCommand, first: Address) -> None:
        """Take a command, whose record first stood at `first`; a user's are decided in order."""
        user: UserKey = (command.tenant, command.user_id)
        guard = self._context.crash_counter.guard
        address = entry.record.address
        if command.operation in _PUT_OFF and command.session_id is not None:
            self._put_off[*user, command.session_id] += 1
        self._users.submit(user, lambda: guard(address, self._handle(entry, command, first)))

    def look_over(self, request: ResolvedRequest, order: int, at_ms: int) -> CutOff | None:
        """Give how a request that is read ends for the state of its session, `None` if it may run.

        A session that it finds with its time over expires by it.
        """
        key = session_key(request)
        if key in self._ending:
            return ended_as("expired")
        state = self._sessions.get(key)
        if state is None:
            return self._look_over_idle(key, at_ms)
        due = self._state.due_ms(state)
        if self._is_over(key, due, at_ms):
            if not self._state.has_at_hand(key):
                return self._expire_later(key, at_ms)
            self._expire(key, at_ms=at_ms)
        return turned_away(self._sessions.get(key), request.request_id, order, at_ms)

    def _look_over_idle(self, key: SessionKey, at_ms: int) -> CutOff | None:
        """Look a session over by the little that is in memory of it."""
        places, place = self._state.session_places, place_of(key)
        # Whoever came before a session ended may run still: that is seen when its turn comes.
        if at_ms <= places.barriers_until_ms:
            return None
        if self._is_over(key, places.due_ms(place), at_ms):
            return self._expire_later(key, at_ms)
        return ended_as(places.lifecycle(place))

    def _expire_later(self, key: SessionKey, at_ms: int) -> CutOff | None:
        """Expire a session once all of it is in memory: its event tells the turn of its head."""
        # Before any command on it that is read after this.
        self._ending.add(key)
        self._users.submit(key[:2], lambda: self._expire_idle(key, at_ms))
        return ended_as("expired")

    def _is_over(self, key: SessionKey, due: int | None, at_ms: int) -> bool:
        """Tell whether a request that came at `at_ms` finds a session over that was `due`.

        Not where a command that may put that off, and came before, is not decided yet.
        """
        if due is None or due > at_ms or key in self._put_off:
            return False
        return not self._queue.of_session(key)

    def _is_due(self, key: SessionKey, at_ms: int) -> bool:
        state = self._sessions.get(key)
        due = None if state is None else self._state.due_ms(state)
        return due is not None and due <= at_ms and not self._queue.of_session(key)

    async def _expire_idle(self, key: SessionKey, at_ms: int) -> None:
        await self._lookup.recall(key)
        self._ending.discard(key)
        if self._is_due(key, at_ms):
            self._expire(key, at_ms=at_ms)

    def is_known(self, session: SessionKey) -> bool:
        """Tell whether a user has such a session, or one of its requests is on."""
        return self._state.knows(session) or bool(self._queue.of_session(session))

    def begin(self, session: SessionKey, ttl: SessionTtl, at_ms: int) -> None:
        """Have a session that begins with a request live so long."""
        command = SessionCommand(
            tenant=session[0],
            user_id=session[1],
            session_id=session[2],
            command_id="begin",
            operation="create",
            ttl=ttl,
        )
        decided = decide(command, Session(session), at_ms=at_ms)
        self._submit(session, decided, at_ms=at_ms)

    def is_on(self, session: SessionKey) -> bool:
        """Tell whether a run of a session is under way or waits."""
        return bool(self._queue.of_session(session))

    async def _handle(
        self, entry: Entry[InputRecord], command: SessionCommand, first: Address
    ) -> None:
        known = self._state.session_answers.get(
            (command.tenant, command.user_id, command.command_id)
        )
        at_ms = arrived_ms(entry.record)
        if known is not None:
            if known.session_id is not None:
                await self._lookup.recall((known.tenant, known.user_id, known.session_id))
            committed = (
                None
                if known.source == first
                else self._writer.submit([self._answers.again(known, first)])
            )
        elif command.session_id is None:
            committed = await self._all(command, first, at_ms)
        else:
            key = (command.tenant, command.user_id, command.session_id)
            committed = await self._one(key, command, first, at_ms)
        self._decided(command)
        guard = self._context.crash_counter.guard
        self._tasks.spawn(guard(entry.record.address, _finished(entry, committed)))

    def _decided(self, command: SessionCommand) -> None:
        if command.operation in _PUT_OFF and command.session_id is not None:
            key = (command.tenant, command.user_id, command.session_id)
            self._put_off[key] -= 1
            if not self._put_off[key]:
                del self._put_off[key]

    async def _one(
        self, key: SessionKey, command: SessionCommand, first: Address, at_ms: int
    ) -> Committed:
        await self._lookup.recall(key)
        if command.operation != "expire" and self._is_due(key, at_ms):
            # Its time was over before this came, unless a request that was not read is older.
            is_over = not await self.is_used(key)
            await self._lookup.recall(key)
            if is_over and self._is_due(key, at_ms):
                self._expire(key, at_ms=at_ms)
        found = await self._meant.find(key, command)
        await self._lookup.recall(key)
        # No await from here on: whoever is read next meets what is decided.
        session = self._session(key)
        decided = decide(self._with_ttl(command), session, at_ms=at_ms, found=found)
        return self._submit(key, decided, at_ms=at_ms, session=session, asked=(command, first))

    def _with_ttl(self, command: SessionCommand) -> SessionCommand:
        """Give the command; one that creates a session with what the policy says of its life."""
        if command.operation != "create":
            return command
        of_policy = self._state.pipeline.session_terms(command.tenant, command.user_id).ttl
        if of_policy.is_none:
            return command
        ttl = (command.ttl or NO_TTL).filled_from(of_policy)
        return command.model_copy(update={"ttl": ttl})

    async def _all(self, command: SessionCommand, first: Address, at_ms: int) -> Committed:
        """Close or delete all that a user has now, some at a time, with turns for others."""
        goal: LifecycleState = "closed" if command.operation == "close" else "deleted"
        count = 0
        # One whose first run has not ended stands nowhere on the log.
        on = self._queue.sessions_of((command.tenant, command.user_id))
        async for mine in self._lookup.of_user(command.tenant, command.user_id):
            with self._lookup.held(key for key, _ in mine):
                count += await self._some(mine, goal, command, at_ms)
        with self._lookup.held(on):
            count += await self._some(
                [FoundSession(one, False) for one in on], goal, command, at_ms
            )
        answer = self._answers.of(command, first, Decided(), sessions=count)
        self._state.session_answers.fold(answer)
        return self._writer.submit([answer])

    async def _some(
        self,
        mine: Sequence[FoundSession],
        goal: LifecycleState,
        command: SessionCommand,
        at_ms: int,
    ) -> int:
        """Close or delete some that a user has; give how many this command did."""
        known = [one for one, _ in mine if self._state.knows(one)]
        # One that was closed so that the rest of it runs may have a rest.
        may_drain = command.operation == "close" and not command.drain
        await self._lookup.recall(
            *(one for one in known if may_drain or self._state.lifecycle(one) != goal),
        )
        committed = None
        changed: set[SessionKey] = set()
        done = 0
        for key, is_newest in mine:
            is_over = self._state.lifecycle(key) == goal
            if is_over and not closes_harder(command, self._sessions.get(key)):
                # By this command, before a crash in the midst of it.
                is_done = is_newest and key not in changed
                done += is_done and self._state.changed_ms(key) == at_ms
            elif self.is_known(key):
                session = self._session(key)
                decided = decide(command, session, at_ms=at_ms)
                if decided.state is not None:
                    done += 1
                    changed.add(key)
                    committed = self._submit(
                        key, decided, at_ms=at_ms, session=session, of_all=command
                    )
        if committed is not None:
            await committed
        return done

    def _session(self, key: SessionKey) -> Session:
        found = self._queue.of_session(key)
        before_offset, until_ms = self._taken_in()
        # One that waits and has a journal has begun: paused, or before its next attempt.
        begun = next((one for one in found if one.key in self._state.journals.open), None)
        if begun is None and found and isinstance(found[0], Run):
            begun = found[0]
        return Session(
            key,
            state=self._sessions.get(key),
            head=self._state.heads.get(key),
            is_on=bool(found),
            runs=None if begun is None else begun.key[2],
            before_offset=before_offset,
            until_ms=until_ms,
        )

    def _submit(
        self,
        key: SessionKey,
        decided: Decided,
        *,
        at_ms: int,
        session: Session | None = None,
        asked: tuple[SessionCommand, Address] | None = None,
        of_all: SessionCommand | None = None,
    ) -> Committed:
        """Submit what was decided, with its event and its answer, and carry it out."""
        session = session or Session(key)
        command = asked[0] if asked is not None else of_all
        events: list[Event | Tombstone] = []
        if decided.state is not None:
            self._sessions.fold(decided.state)
            events.append(decided.state)
            if decided.state.state == "deleted":
                events += self._forgotten(session)
        if decided.head is not None:
            self._state.heads.move(decided.head, ahead=True)
            events.append(decided.head)
        if decided.change is not None and decided.state is not None:
            events.append(changed(session, decided, command, at_ms=at_ms))
        if asked is not None:
            answer = self._answers.of(*asked, decided)
            self._state.session_answers.fold(answer)
            events.append(answer)
        committed = self._writer.submit(events)
        if decided.state is not None:
            committed.add_done_callback(partial(self._tell_of, decided.state))
            if decided.change in {"closed", "deleted"}:
                self._end_what_waits(key, decided.state)
        return committed

    def _tell_of(self, state: SessionState, committed: Committed) -> None:
        """Tell of a change that is committed: until then it is looked up as it was before."""
        if not committed.cancelled() and committed.exception() is None:
            self.on_change(state)

    def _end_what_waits(self, key: SessionKey, state: SessionState) -> None:
        for one in self._queue.of_session(key):
            request_id = one.key[2]
            cut_off = turned_away(state, request_id, one.order)
            if cut_off is not None:
                self._tasks.spawn(self._queue.cancel(one, cut_off))

    def _forgotten(self, session: Session) -> list[Tombstone]:
        """Forget a session that is deleted; give what its topics are to forget."""
        gone = []
        if session.head is not None:
            gone.append(Tombstone(SESSIONS, session.head.record_key))
            self._state.heads.drop(session.key)
        tenant, user_id, session_id = session.key
        hold = HoldPlaced(tenant=tenant, user_id=user_id, session_id=session_id)
        if hold in self._pauses:
            self._pauses.remove(hold)
            gone.append(Tombstone(HOLDS, hold.record_key))
            self._queue.on_resumed(hold)
        return gone

    def _expire(self, key: SessionKey, *, at_ms: int) -> None:
        """Expire a session whose time is over, by nobody's command."""
        session = self._session(key)
        tenant, user_id, session_id = key
        command = SessionCommand(
            tenant=tenant,
            user_id=user_id,
            session_id=session_id,
            command_id="ttl",
            operation="expire",
            if_due=True,
        )
        self._submit(key, decide(command, session, at_ms=at_ms), at_ms=at_ms, session=session)


async def _always(_session: SessionKey) -> bool:
    return True


async def _finished(entry: Entry[InputRecord], committed: Committed | None) -> None:
    if committed is not None:
        await committed
    entry.finish()
