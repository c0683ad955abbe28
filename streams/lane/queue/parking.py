"""Parking runs: their whole requests go to the log, so that their records need not be kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import structlog
from aiokafka import TopicPartition

from millstream.schemas.base import compound_key
from millstream.schemas.errors import Poison
from millstream.schemas.lane_events import CommandObeyed, HoldPlaced, RunParked
from millstream.schemas.topics import HOLDS, PARKED
from millstream.streams.broker.compacted import newest_of_each
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.output.writer import Committed, LaneWriter, Tombstone
from millstream.streams.lane.queue.parked_log import ParkedLog
from millstream.streams.lane.queue.pauses import Pauses, expiry_reason
from millstream.streams.lane.queue.waiting_line import Ticket
from millstream.streams.lane.runs.admission import admit
from millstream.streams.lane.runs.run import ActiveTime, Run
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.settings import Settings
from millstream.streams.transactions.committer import CommitRefused
from millstream.streams.wire.codec import decode
from millstream.streams.wire.keys import RequestKey

log = structlog.get_logger(__name__)


class Parking:
    """What is parked and paused of one lane's partition.

    `on_refused` is told of a run that no record can hold: it cannot wait.
    """

    def __init__(
        self,
        settings: Settings,
        services: LaneServices,
        partition: int,
        *,
        state: LaneState,
        writer: LaneWriter,
        reader: PartitionReader,
        on_refused: Callable[[Run, CommitRefused], None],
    ) -> None:
        self._settings = settings
        self._services = services
        self._state = state
        self._writer = writer
        self._reader = reader
        self._on_refused = on_refused
        self._holds_at = TopicPartition(settings.topic(HOLDS.name), partition)
        parked_at = TopicPartition(settings.topic(PARKED.name), partition)
        self._records = ParkedLog(reader, parked_at)
        self._taken_over_ms = 0
        self.pauses = Pauses()

    async def restore(self) -> list[Ticket]:
        """Fold what is paused; give a ticket for each request that is parked, in order.

        Raises `LaneLost` or `ServiceUnavailable`.
        """
        paused = await newest_of_each(
            self._reader,
            self._holds_at,
            lambda record: (decode(record, HoldPlaced), record.timestamp),
        )
        self._taken_over_ms = self._services.clock_ms()
        tickets = []
        for offset, head in await self._records.open_set():
            self._state.park(head.key, head.decision.request_digest)
            stands_at: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            stands_at.set_result(offset)
            tickets.append(
                Ticket(
                    head.key, head.session, head.order, stands_at, head.not_before_ms, restored=True
                )
            )
        await asyncio.gather(*(self._take_over(*placed) for _, placed in paused))
        return tickets

    async def _take_over(self, hold: HoldPlaced, placed_ms: int) -> None:
        why = expiry_reason(hold, placed_ms, self._state, now_ms=self._taken_over_ms)
        if why is None:
            self.pauses.add(hold)
            return
        log.info("a pause lapses", request_id=hold.request_id, user_id=hold.user_id, reason=why)
        await self._writer.commit([Tombstone(HOLDS, hold.record_key)])

    def park(self, run: Run) -> asyncio.Future[int]:
        """Commit a run's request as it stands, and acknowledge its record then.

        Gives the offset at which it is parked; done at once if it is parked as it stands already.
        """
        if run.parked is not None and run.parked_progress == run.progress:
            return run.parked
        run.parked = parked = asyncio.get_running_loop().create_future()
        run.parked_progress = run.progress
        request = run.request
        event = RunParked(
            tenant=request.tenant,
            user_id=request.user_id,
            request_id=request.request_id,
            session_id=request.session_id,
            at_ms=self._services.clock_ms(),
            request=request,
            decision=run.admission.decision,
            order=run.order,
            reserved_micros=run.admission.reserved_micros,
            tries=run.tries,
            failures=run.failures,
            spent=run.spent,
            not_before_ms=run.not_before_ms,
            elapsed_ms=run.under_way.elapsed_ms,
            since_ms=run.under_way.since_ms,
        )
        committed = self._writer.submit([event], run.traceparent)
        committed.add_done_callback(partial(self._is_parked, run, parked))
        return parked

    async def load(self, ticket: Ticket) -> Run | None:
        """Read a parked request back, with the plan of its run.

        Gives `None` for one that could not be parked, or cannot be read here: the latter is left
        on the log to a newer worker. Raises `LaneLost`.
        """
        try:
            parked, traceparent = await self._records.load(await ticket.stands_at)
        except CommitRefused:
            return None
        except Poison as poison:
            log.warning("a parked request cannot be read", key=ticket.key, reason=str(poison))
            return None
        admission = admit(
            parked.request,
            self._state,
            self._services.factory,
            input_bytes_max=self._settings.input_bytes_max,
            reserved_before_micros=parked.reserved_micros - parked.decision.reserved_micros,
            decided=parked.decision,
        )
        under_way = ActiveTime(parked.elapsed_ms, parked.since_ms)
        if ticket.restored:
            # Nobody knows when its last owner was lost; since this one is here it only waits.
            under_way.stop(self._taken_over_ms)
        run = Run(
            request=parked.request,
            admission=admission,
            traceparent=traceparent,
            order=parked.order,
            may_follow=ticket.restored or parked.tries > 0,
            # Attempts are numbered within a generation: a new owner's are higher by that.
            tries=0 if ticket.restored else parked.tries,
            failures=parked.failures,
            spent=parked.spent,
            under_way=under_way,
            parked=ticket.stands_at,
        )
        run.parked_progress = run.progress
        return run

    async def pause(self, hold: HoldPlaced, mark: CommandObeyed) -> None:
        """Place a hold, at once; returns when it is committed, with its command's mark."""
        # Not after the commit: a command, or a result, that comes meanwhile must find it.
        self.pauses.add(hold)
        await self._writer.commit([hold, mark])

    async def resume(self, hold: HoldPlaced, mark: CommandObeyed) -> None:
        """Lift a hold, at once; returns when that is committed, with its command's mark."""
        self.pauses.remove(hold)
        await self._writer.commit([Tombstone(HOLDS, hold.record_key), mark])

    def tombstones(self, run: Run) -> list[Tombstone]:
        """Give what the compacted topics are to forget with a run's result."""
        gone = self.let_go(run.key)
        if run.parked is not None:
            gone.append(Tombstone(PARKED, compound_key(*run.key)))
        return gone

    def let_go(self, key: RequestKey) -> list[Tombstone]:
        """Lift the hold on a request that ends now; give what is to be forgotten of it."""
        hold = self.pauses.of_request(key)
        if hold is None:
            return []
        self.pauses.remove(hold)
        return [Tombstone(HOLDS, hold.record_key)]

    def _is_parked(
        self,
        run: Run,
        parked: asyncio.Future[int],
        committed: Committed,
    ) -> None:
        error = committed.exception()
        if error is None:
            (offset,) = committed.result()
            self._records.written(offset)
            parked.set_result(offset)
            entry, run.entry = run.entry, None
            if entry is not None:
                entry.finish()
            return
        parked.set_exception(error)
        parked.exception()  # a lost lane is told by its committer
        if isinstance(error, CommitRefused):
            run.parked = None
            self._on_refused(run, error)
