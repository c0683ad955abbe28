"""Control commands in a lane: what a user asks of requests that were accepted before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from schemas.base import Reason
from schemas.events import AgentResult, ControlCommand
from streams.intake import InputRecord
from streams.lane_endings import LaneEndings
from streams.lane_output import LaneOutput
from streams.lane_runs import LaneRuns
from streams.window import Entry

log = structlog.get_logger(__name__)


class LaneControl:
    """Carries out the commands of one lane's partition."""

    def __init__(
        self,
        *,
        output: LaneOutput,
        runs: LaneRuns,
        endings: LaneEndings,
        clock_ms: Callable[[], int],
    ) -> None:
        self._output = output
        self._runs = runs
        self._endings = endings
        self._clock_ms = clock_ms

    async def obey(self, entry: Entry[InputRecord], command: ControlCommand) -> None:
        """Carry a command out; returns once its effect is certain, whatever crashes after that.

        Cancelling a session ends what has arrived of it. Cancelling a request that is not here,
        because it is on its way or was never made, ends it before it begins: its one result is
        `cancelled`, and when it comes it is passed over.
        """
        reason = Reason(code="cancelled", message="cancelled by its user")
        user = (command.tenant, command.user_id)
        if command.session_id is not None:
            keys = self._runs.of_session((*user, command.session_id))
            await asyncio.gather(*filter(None, (self._runs.cancel(key, reason) for key in keys)))
            return
        key = (*user, command.request_id or "")
        if (ended := self._runs.cancel(key, reason)) is not None:
            await ended
            return
        if not self._endings.begin(key):
            return  # finished, or refused this moment: its result is on the way
        address = entry.record.address
        log.info("request cancelled before it came", request_id=command.request_id)
        try:
            await self._output.commit(
                [
                    AgentResult(
                        tenant=command.tenant,
                        user_id=command.user_id,
                        request_id=key[2],
                        session_id=key[2],
                        at_ms=self._clock_ms(),
                        status="cancelled",
                        reason=reason,
                        source=address,
                        accepted_at_ms=entry.record.timestamp,
                    )
                ]
            )
        finally:
            self._endings.end(key)
