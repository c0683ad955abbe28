"""Control commands in a lane: what a user asks of requests that were accepted before."""

from __future__ import annotations

import asyncio

import structlog

from schemas.base import Reason
from schemas.errors import Unserviceable
from schemas.events import AgentResult, ControlCommand, HoldPlaced
from streams.holds import HOLDS_MAX
from streams.intake import InputRecord
from streams.lane_endings import LaneEndings
from streams.lane_output import LaneOutput
from streams.lane_parts import LaneServices
from streams.lane_state import RequestKey
from streams.run import Run
from streams.run_queue import RunQueue
from streams.window import Entry

log = structlog.get_logger(__name__)


class LaneControl:
    """Carries out the commands of one lane's partition."""

    def __init__(
        self,
        services: LaneServices,
        *,
        output: LaneOutput,
        queue: RunQueue,
        endings: LaneEndings,
    ) -> None:
        self._services = services
        self._output = output
        self._queue = queue
        self._endings = endings

    async def obey(self, entry: Entry[InputRecord], command: ControlCommand) -> None:
        """Carry a command out; returns once its effect is certain, whatever crashes after that.

        Raises `Unserviceable` for a pause that would be one too many.
        """
        match command.command:
            case "cancel":
                await self._cancel(entry, command)
            case "pause":
                await self._pause(command)
            case "resume":
                await self._resume(command)
            case "drain":
                if command.worker == self._services.worker:
                    log.info("worker is drained by a command")
                    self._services.drain()

    async def _cancel(self, entry: Entry[InputRecord], command: ControlCommand) -> None:
        """End a request, or what has arrived of a session.

        A request that is not here, because it is on its way or was never made, ends before it
        begins: its one result is `cancelled`, and when it comes it is passed over.
        """
        reason = Reason(code="cancelled", message="cancelled by its user")
        user = (command.tenant, command.user_id)
        if command.session_id is not None:
            found = self._queue.of_session((*user, command.session_id))
            await asyncio.gather(*(self._queue.cancel(each, reason) for each in found))
            return
        key = (*user, command.request_id or "")
        if (one := self._queue.find(key)) is not None:
            await self._queue.cancel(one, reason)
        elif self._endings.begin(key):
            await self._end_before_it_comes(entry, command, key, reason)
        # Else it is finished, or refused this moment: its result is on the way.

    async def _end_before_it_comes(
        self, entry: Entry[InputRecord], command: ControlCommand, key: RequestKey, reason: Reason
    ) -> None:
        log.info("request cancelled before it came", request_id=command.request_id)
        try:
            result = AgentResult(
                tenant=command.tenant,
                user_id=command.user_id,
                request_id=key[2],
                session_id=key[2],
                at_ms=self._services.clock_ms(),
                status="cancelled",
                reason=reason,
                source=entry.record.address,
                accepted_at_ms=entry.record.timestamp,
            )
            # It may have begun under an earlier owner, and reserved and spent.
            await self._output.commit(self._endings.abandoned(result))
        finally:
            self._endings.end(key)

    async def _pause(self, command: ControlCommand) -> None:
        parking = self._queue.parking
        hold = _hold(command)
        if hold in parking.holds:
            return
        if command.request_id is not None:
            key = (command.tenant, command.user_id, command.request_id)
            if self._is_ending(key):  # nobody would ever lift this hold
                return
        if len(parking.holds) >= HOLDS_MAX:
            raise Unserviceable(
                f"{HOLDS_MAX} requests and sessions of this partition are paused already; "
                "resume or cancel some, then put this command back"
            )
        await parking.pause(hold)

    def _is_ending(self, key: RequestKey) -> bool:
        """Tell whether a request's result is committed, or on its way to the log."""
        match self._queue.find(key):
            case None:
                return self._endings.is_over(key) or self._endings.is_in_hand(key)
            case Run() as run:
                return run.ending
            case _:
                return False

    async def _resume(self, command: ControlCommand) -> None:
        hold = _hold(command)
        if hold in self._queue.parking.holds:
            await self._queue.parking.resume(hold)
            self._queue.go_on(hold)


def _hold(command: ControlCommand) -> HoldPlaced:
    return HoldPlaced(
        tenant=command.tenant,
        user_id=command.user_id,
        request_id=command.request_id,
        session_id=command.session_id,
        at_ms=command.at_ms,
    )
