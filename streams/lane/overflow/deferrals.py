"""Whose requests a lane leaves where they stand, since so many of theirs wait already.

Of a user who floods, or while the line is half full, no more is decided, parked or kept in memory:
that the user's requests are deferred is one record on the topic `deferred`, and once that is
committed theirs are acknowledged unread. As their place in the line empties they are read again, by
offset, and taken in as if they had just come. What is done moves the record on; it is forgotten
with the last of them. A crash in between brings requests again that were taken in: these are passed
over as any that come twice.

Where nobody floods, but so many users ask that the line is full all the same, no more is to
be read: see `wants_more`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from functools import partial

import structlog

from millstream.schemas.base import UserKey, partition_key
from millstream.schemas.lane_events import RequestsDeferred
from millstream.schemas.topics import DEFERRED
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.output.writer import Committed, LaneWriter
from millstream.streams.lane.overflow.deferral import Deferral
from millstream.streams.lane.overflow.reading import (
    UnreadReading,
    deferred_users,
    stretch,
    user_left,
)
from millstream.streams.lane.queue.quotas import Backpressure
from millstream.streams.lane.queue.run_queue import RunQueue
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.wire.codec import Tombstone
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import InputRecord

log = structlog.get_logger(__name__)

_TAKEN_AT_ONCE_MAX = 500
_TAKEN_BYTES_MAX = 1024 * 1024
_READ_AT_ONCE_MAX = 5000
_WRITTEN_EVERY = 500

TakeIn = Callable[[Entry[InputRecord]], None]
"""Takes a record on its way, as one that has just come. Never raises."""


class Deferrals:
    """The users of one lane's partition whose requests are left where they stand.

    `take_in` is given each when its turn comes, unless `reading` says that it is buried.
    """

    def __init__(
        self,
        context: LaneContext,
        *,
        state: LaneState,
        writer: LaneWriter,
        reader: PartitionReader,
        queue: RunQueue,
        reading: UnreadReading,
        take_in: TakeIn,
    ) -> None:
        self._context = context
        self._limits = context.services.limits
        self._input = context.at(context.stage.input)
        self._input_name = context.stage.input.name
        self._state = state
        self._writer = writer
        self._reader = reader
        self._queue = queue
        self._quotas = queue.quotas
        self._freed = queue.freed
        self._reading = reading
        self._take_in = take_in
        self._of: dict[UserKey, Deferral] = {}
        # Those who have place in the line, those who have none because others wait, and those who
        # give way to what is not read yet.
        self._ready: dict[UserKey, Deferral] = {}
        self._waiting_for_capacity: dict[UserKey, Deferral] = {}
        self._waiting_for_reader: dict[UserKey, Deferral] = {}
        self._behind_at = -self._limits.behind_for_s
        self._backpressure = Backpressure(
            f"{self._input.topic}-{context.partition}",
            context.settings.parked_max,
            lambda: queue.waiting + len(self._of),
        )
        self._restored: list[RequestsDeferred] = []
        self._look_at = 0.0
        self._to_rescan: dict[UserKey, Deferral] = {}
        self._rescanned_to = self._rescan_to = 0
        self._wake = self._freed.changed
        self._task: asyncio.Task[None] | None = None
        self._now = asyncio.get_running_loop().time

    def __len__(self) -> int:
        """Give how many requests are left where they stand, as far as they are found."""
        return sum(map(len, self._of.values()))

    def has(self, user: UserKey) -> bool:
        """Tell whether requests of a user are left where they stand."""
        return user in self._of

    async def restore(self) -> None:
        """Learn who was deferred, before the rest of the state is restored.

        Raises `LaneLost` or `ServiceUnavailable`.
        """
        self._restored = await deferred_users(
            self._reader, self._context.at(DEFERRED), self._input_name
        )
        self._state.waits_since(min((one.from_ms for one in self._restored), default=None))

    def open(self, end: int) -> None:
        """Take over what was deferred; `end` is where the input ends, or lies behind that."""
        for event in self._restored:
            user = (event.tenant, event.user_id)
            self._of[user] = found = Deferral(
                user, event.from_offset, from_ms=event.from_ms, rescanned_to=end
            )
            found.held = None
        self._restored.clear()
        self._freed.wanted = bool(self._of)
        self._ready, self._to_rescan = dict(self._of), dict(self._of)
        self._rescanned_to = min((one.since for one in self._of.values()), default=end)
        self._rescan_to = end

    def begin(self) -> None:
        """Take in what was left, once the lane serves."""
        self._task = asyncio.create_task(self._run(), name="deferrals")
        self._task.add_done_callback(self._ended)
        self._wake.set()

    def drain(self) -> None:
        """Take nothing in any more."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Stop; what is left is the next owner's."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def defers(self, entry: Entry[InputRecord], *, is_behind: bool) -> bool:
        """Tell whether a record that has just come is left where it stands; it is then, if so."""
        if is_behind:
            self._behind_at = self._now()
        elif not self._of and not self._quotas.may_be_crowded:
            return False
        user = self._context.stage.user_of(entry.record.value)
        deferral = None if user is None else self._deferral(user, entry)
        if deferral is None:
            return False
        deferral.add(entry.offset)
        if deferral.held is None:
            entry.finish()
        else:
            deferral.held.append(entry)
        if self._has_place(deferral.user):
            self._mark_ready(deferral)
        else:
            self._put_off(deferral)
        return True

    def _deferral(self, user: UserKey, entry: Entry[InputRecord]) -> Deferral | None:
        """Give the deferral that a user's record belongs to; `None` if it is to be taken in."""
        deferral = self._of.get(user)
        if deferral is not None and entry.offset < deferral.since:
            return None  # it came before, and was not acknowledged
        if deferral is not None and not deferral.is_caught_up:
            return deferral
        # What was taken in so far came before it, and an owner after this one must find it so.
        home = home_partition(partition_key(*user), self._context.settings.partitions)
        if home != self._context.partition or not self._is_too_much(user):
            return None
        self._queue.park_all_of(user)
        if deferral is None:
            at_ms = entry.record.timestamp
            self._of[user] = deferral = Deferral(user, entry.offset, from_ms=at_ms)
            self._freed.wanted = True
            since_ms = self._state.waits_since_ms
            self._state.waits_since(at_ms if since_ms is None else min(since_ms, at_ms))
            self._submit(self._event(deferral)).add_done_callback(partial(_acknowledge, deferral))
        return deferral

    @property
    def _is_behind(self) -> bool:
        return self._now() - self._behind_at < self._limits.behind_for_s

    def _is_too_much(self, user: UserKey) -> bool:
        too_many = self._is_behind and self._quotas.active(user) >= self._limits.at_hand_behind
        return too_many or self._quotas.over_limit(user)

    def _has_place(self, user: UserKey) -> bool:
        too_many = self._is_behind and self._quotas.active(user) >= self._limits.at_hand_behind // 2
        return not too_many and self._quotas.may_refill(user)

    def _event(self, deferral: Deferral) -> RequestsDeferred:
        tenant, user_id = deferral.user
        return RequestsDeferred(
            tenant=tenant,
            user_id=user_id,
            at_ms=self._context.services.clock_ms(),
            input=self._input_name,
            from_offset=deferral.from_offset,
            from_ms=deferral.from_ms,
        )

    def _submit(self, event: RequestsDeferred | Tombstone) -> Committed:
        committed = self._writer.submit([event])
        committed.add_done_callback(self._submitted)
        return committed

    def _submitted(self, committed: Committed) -> None:
        if not committed.cancelled() and (error := committed.exception()) is not None:
            self._context.fail(error)

    def wants_more(self) -> bool:
        """Tell whether more of the partition is to be read."""
        is_open = self._backpressure.is_open()
        self._freed.wanted |= not is_open
        return is_open

    async def room(self) -> None:
        """Return once more of the partition is to be read."""
        await self._backpressure.opened()

    def _look_who_has_left(self) -> None:
        """Let those go on of whom fewer wait or run than before."""
        freed = self._freed.take()
        for user in freed:
            deferral = self._of.get(user)
            if deferral is not None and self._has_place(user):
                self._mark_ready(deferral)
            elif self._waiting_for_capacity and not self._quotas.half_full:
                # Whoever has nothing in line that could leave it would never be asked.
                first = next(iter(self._waiting_for_capacity))
                self._mark_ready(self._waiting_for_capacity.pop(first))
        if freed:
            self._update()

    def _update(self) -> None:
        """Look again whether there is room, and listen no longer than need be."""
        self._backpressure.update()
        self._freed.wanted = bool(self._of) or self._backpressure.closed

    def _mark_ready(self, deferral: Deferral) -> None:
        if deferral.next is not None and self._of.get(deferral.user) is deferral:
            self._ready[deferral.user] = deferral
            self._wake.set()

    async def _run(self) -> None:
        while True:
            wait_s = self._limits.behind_for_s if self._waiting_for_reader else None
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            self._wake.clear()
            self._look_who_has_left()
            if not self._is_behind:
                self._ready |= self._waiting_for_reader
                self._waiting_for_reader = {}
            while self._to_rescan or self._ready:
                self._look_who_has_left()
                if self._to_rescan:
                    await self._rescan()
                if ready := self._who_may_take():
                    await self._take_on(ready)
                    await self._reading.were_read()
                    # No faster than they are parked.
                    await self._writer.submit([])

    def _who_may_take(self) -> list[Deferral]:
        asked, self._ready = self._ready, {}
        for user, deferral in asked.items():
            if self._may_take(deferral):
                self._ready[user] = deferral
            else:
                self._put_off(deferral)
        return list(self._ready.values())

    def _put_off(self, deferral: Deferral) -> None:
        """Keep in mind who must be asked again though nothing of theirs leaves the line."""
        if self._quotas.half_full:
            self._waiting_for_capacity[deferral.user] = deferral
        elif self._is_behind:
            self._waiting_for_reader[deferral.user] = deferral

    def _may_take(self, deferral: Deferral) -> bool:
        return deferral.next is not None and not self._is_too_much(deferral.user)

    async def _rescan(self) -> None:
        """Read some more of what earlier owners left, to know which they are."""
        read = 0
        async with aclosing(
            stretch(self._reader, self._input, self._rescanned_to, self._rescan_to)
        ) as records:
            async for record in records:
                self._rescanned_to = record.offset + 1
                user = await user_left(self._reading, record, self._context.stage, self._state)
                if user is not None and (deferral := self._to_rescan.get(user)) is not None:
                    deferral.rescanned(record.offset)
                    self._mark_ready(deferral)
                read += 1
                if read >= _READ_AT_ONCE_MAX:
                    break
        await self._reading.were_read()
        if read >= _READ_AT_ONCE_MAX:
            return
        found, self._to_rescan = self._to_rescan, {}
        for deferral in found.values():
            deferral.all_found()
            self._mark_ready(deferral)
            self._persist_progress(deferral)

    async def _take_on(self, ready: list[Deferral]) -> None:
        """Take in what comes next of those who have place, as far as it stands together."""
        wanted = {number: one for one in ready if (number := one.next) is not None}
        end = max(one.end for one in ready)
        read = taken = size = 0
        async with aclosing(stretch(self._reader, self._input, min(wanted), end)) as records:
            async for record in records:
                if not read:
                    self._give_up_before(record.offset, wanted)
                read += 1
                deferral = wanted.pop(record.offset, None)
                if deferral is not None:
                    persist = partial(self._persist_progress, deferral)
                    entry = deferral.take(InputRecord.of(record), persist)
                    if await self._reading.may_read(entry):
                        self._take_in(entry)
                    taken += 1
                    size += len(record.value or b"")
                    if (following := deferral.next) is not None and self._may_take(deferral):
                        wanted[following] = deferral
                is_enough = taken >= _TAKEN_AT_ONCE_MAX or size >= _TAKEN_BYTES_MAX
                if not wanted or is_enough or read >= _READ_AT_ONCE_MAX:
                    return
        if not read:
            self._give_up_before(end, wanted)

    def _give_up_before(self, offset: int, wanted: dict[int, Deferral]) -> None:
        for number in [number for number in wanted if number < offset]:
            deferral = wanted.pop(number)
            gone = deferral.give_up_before(offset)
            self._context.services.metrics.deferred_lost.inc(gone)
            log.error(
                "requests were deleted by their topic's retention before their turn came",
                tenant=deferral.user[0],
                user_id=deferral.user[1],
                requests=gone,
                before=f"{self._input.topic}-{self._context.partition}-{offset}",
            )
            if (following := deferral.next) is not None:
                wanted[following] = deferral
            self._persist_progress(deferral)

    def _persist_progress(self, deferral: Deferral) -> None:
        """Write down how far a user's are done, now and then; forget it when all are."""
        if self._of.get(deferral.user) is not deferral:
            return
        if deferral.is_used_up:
            del self._of[deferral.user]
            self._ready.pop(deferral.user, None)
            self._waiting_for_capacity.pop(deferral.user, None)
            self._waiting_for_reader.pop(deferral.user, None)
            self._update()
            self._submit(Tombstone(DEFERRED, self._event(deferral).record_key))
        elif deferral.unwritten >= _WRITTEN_EVERY:
            deferral.unwritten = 0
            self._submit(self._event(deferral))
        self._look_who_waits_longest()

    def _look_who_waits_longest(self) -> None:
        # Now and then: there may be many, and to remember ids for longer than need be is no fault.
        if not self._of or self._now() >= self._look_at:
            self._look_at = self._now() + self._limits.look_who_waits_every_s
            times = (one.from_ms for one in self._of.values())
            self._state.waits_since(min(times, default=None))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._context.fail(error)


def _acknowledge(deferral: Deferral, committed: Committed) -> None:
    if committed.cancelled() or committed.exception() is not None:
        return
    held, deferral.held = deferral.held or [], None
    for entry in held:
        entry.finish()
