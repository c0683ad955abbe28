"""Control commands in a lane: what a user asks of requests that were accepted before."""

from __future__ import annotations

import asyncio

import structlog

from millstream.schemas.base import Address
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.dead_letters import Unserviceable
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import CommandObeyed, HoldPlaced
from millstream.schemas.topics import HOLDS
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.output.in_flight import InFlightRequests
from millstream.streams.lane.output.outcomes import CANCELLED
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.queue.run_queue import RunQueue
from millstream.streams.lane.queue.waiting_line import Ticket
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.state.pauses import HOLDS_MAX, Pauses
from millstream.streams.wire.codec import Tombstone
from millstream.streams.wire.keys import RequestKey, SessionKey
from millstream.streams.wire.records import InputRecord, arrived_ms

log = structlog.get_logger(__name__)


class CommandHandler:
    """Carries out the commands of one lane's partition."""

    def __init__(
        self,
        services: LaneServices,
        *,
        writer: LaneWriter,
        queue: RunQueue,
        in_flight: InFlightRequests,
        pauses: Pauses,
    ) -> None:
        self._services = services
        self._pauses = pauses
        self._writer = writer
        self._queue = queue
        self._in_flight = in_flight
        self._in_hand: set[Address] = set()

    async def execute(
        self,
        entry: Entry[InputRecord],
        command: ControlCommand,
        first: Address,
        *,
        may_be_again: bool,
    ) -> None:
        """Carry a command out; returns once its effect is certain, whatever crashes after that.

        `first` is where its record first stood: what comes from there is one command. One that
        `may_be_again` here may have been carried out in part by an earlier owner. Raises
        `Unserviceable` for a pause that would be one too many.
        """
        if command.command == "drain":
            if command.worker == self._services.worker:
                log.info("worker is drained by a command")
                self._services.drain()
            return
        if first in self._in_hand:  # moved twice: the other copy is not acknowledged before its end
            return
        self._in_hand.add(first)
        try:
            mark = self._mark(command, first)
            match command.command:
                case "cancel":
                    await self._cancel(entry, command, mark, may_be_again=may_be_again)
                case "pause":
                    await self._pause(command, mark, at_ms=entry.record.timestamp)
                case "resume":
                    await self._resume(command, mark)
        finally:
            self._in_hand.discard(first)

    def _mark(self, command: ControlCommand, first: Address) -> CommandObeyed:
        return CommandObeyed(
            tenant=command.tenant,
            user_id=command.user_id,
            at_ms=self._services.clock_ms(),
            command=command.command,
            request_id=command.request_id,
            session_id=command.session_id,
            source=first,
        )

    async def _cancel(
        self,
        entry: Entry[InputRecord],
        command: ControlCommand,
        mark: CommandObeyed,
        *,
        may_be_again: bool,
    ) -> None:
        """End a request, or what has arrived of a session.

        A request that is not here, because it is on its way or was never made, ends before it
        begins: its one result is `cancelled`, and when it comes it is passed over.
        """
        user = (command.tenant, command.user_id)
        if command.session_id is not None:
            session = (*user, command.session_id)
            await self._cancel_session(entry, session, mark, may_be_again=may_be_again)
            return
        key = (*user, command.request_id or "")
        if (one := self._queue.find(key)) is not None:
            await self._queue.cancel(one, CANCELLED)
        elif self._in_flight.register(key):
            await self._end_before_it_comes(entry, key, mark)
            return
        # Else it is finished, or refused this moment: its result is on the way.
        await self._writer.commit([mark])

    async def _cancel_session(
        self,
        entry: Entry[InputRecord],
        session: SessionKey,
        mark: CommandObeyed,
        *,
        may_be_again: bool,
    ) -> None:
        until_ms = arrived_ms(entry.record)
        # First, so that what is read, or taken over from this owner, from now on finds it.
        await self._writer.commit([mark.model_copy(update={"until_ms": until_ms})])
        found = self._queue.of_session(session)
        # All that is at hand, by whatever broker's clock; but whoever saw a result of an owner that
        # was lost over this may have asked on since.
        limit_ms = until_ms if may_be_again else None
        cancels = (self._queue.cancel(each, CANCELLED, until_ms=limit_ms) for each in found)
        await asyncio.gather(*cancels)

    async def _end_before_it_comes(
        self,
        entry: Entry[InputRecord],
        key: RequestKey,
        mark: CommandObeyed,
    ) -> None:
        log.info("request cancelled before it came", request_id=key[2])
        try:
            result = AgentResult(
                tenant=mark.tenant,
                user_id=mark.user_id,
                request_id=key[2],
                session_id=key[2],
                at_ms=self._services.clock_ms(),
                status=CANCELLED.status,
                reason=CANCELLED.reason,
                source=entry.record.address,
                accepted_at_ms=entry.record.timestamp,
            )
            # It may have begun under an earlier owner, and reserved and spent.
            gone = self._pauses.lift(key)
            await self._writer.commit(
                [*self._in_flight.settlement_without_run(result), *gone, mark]
            )
        finally:
            self._in_flight.forget(key)

    async def _pause(self, command: ControlCommand, mark: CommandObeyed, *, at_ms: int) -> None:
        hold = _hold(command, at_ms=at_ms)
        had_ended = self._ends(command)
        if command.request_id is not None:
            mark = mark.model_copy(update={"had_ended": had_ended})
        if hold in self._pauses or had_ended:
            await self._writer.commit([mark])
            return
        if not self._pauses.has_room(hold):
            raise Unserviceable(
                f"of {HOLDS_MAX} requests and sessions of this partition that may be paused, this "
                "user has as many as are left; resume or cancel some, then give it again"
            )
        # Not after the commit: a command, or a result, that comes meanwhile must find it.
        self._pauses.add(hold)
        await self._writer.commit([hold, mark])
        for one in self._at_hand(command):
            self._queue.tell_if_paused(one)

    def _at_hand(self, command: ControlCommand) -> tuple[Run | Ticket, ...]:
        """Give what runs or waits of what a command is for."""
        user = (command.tenant, command.user_id)
        if command.session_id is not None:
            return self._queue.of_session((*user, command.session_id))
        one = self._queue.find((*user, command.request_id or ""))
        return () if one is None else (one,)

    def _ends(self, command: ControlCommand) -> bool:
        """Tell whether a request's result is committed or on its way: nobody would lift a hold."""
        if command.request_id is None:
            return False
        key = (command.tenant, command.user_id, command.request_id)
        match self._queue.find(key):
            case None:
                return self._in_flight.is_finished(key) or self._in_flight.is_registered(key)
            case Run() as run:
                return run.ending
            case _:
                return False

    async def _resume(self, command: ControlCommand, mark: CommandObeyed) -> None:
        hold = _hold(command)
        was_paused = hold in self._pauses
        mark = mark.model_copy(update={"was_paused": was_paused})
        if not was_paused:
            await self._writer.commit([mark])
            return
        self._pauses.remove(hold)
        await self._writer.commit([Tombstone(HOLDS, hold.record_key), mark])
        self._queue.on_resumed(hold)


def _hold(command: ControlCommand, *, at_ms: int = 0) -> HoldPlaced:
    return HoldPlaced(
        tenant=command.tenant,
        user_id=command.user_id,
        request_id=command.request_id,
        session_id=command.session_id,
        at_ms=at_ms,
    )
