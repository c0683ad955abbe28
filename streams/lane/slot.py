"""The place of a lane in a worker: it outlives the lane, keeps the records, and opens it anew."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from millstream.schemas.errors import LaneFenced, LaneLost, LaneOutdated, ServiceUnavailable
from millstream.schemas.sessions.states import LifecycleState
from millstream.streams.consumer.membership import Lease
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.base.window import Ack, Window
from millstream.streams.lane.lane import Lane
from millstream.streams.lane.runs.admission import TemplateRef
from millstream.streams.telemetry.causes import is_denied
from millstream.streams.telemetry.outages import KAFKA, RIGHTS
from millstream.streams.wire.records import InputRecord

log = structlog.get_logger(__name__)

MakeLane = Callable[[CrashCounter], Lane]
"""Makes a lane, of what was held against records. Nothing is started yet."""

_REOPEN_AFTER_S = 1.0
_DENIED_AFTER_S = 5.0
"""Meanwhile it is found out what lacks, and the lease waits until it is there."""
_OUTDATED_AFTER_S = 30.0
"""A lane that cannot read what it folds is tried again after this time: compaction may help."""


class LaneSlot:
    """Holds one assigned partition: a window of records per topic and, while it lives, a lane.

    A lost lane is replaced. The new one restores from the topics and gets the records that are
    not done from the windows, in the order of `topics`. None is opened while this worker may be
    out of its group (`lease`): one that slept past its session must not take back what is
    another's. A fenced one is replaced only when the group has said again whose the partition is,
    or `fenced_wait_s` has passed, after which this member would be out of it.
    """

    def __init__(
        self,
        make: MakeLane,
        *,
        lease: Lease,
        topics: Sequence[str],
        capacity: int,
        fenced_wait_s: float,
        name: str,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._make = make
        self._lease = lease
        self._capacity = capacity
        self._windows: dict[str, Window[InputRecord]] = {
            topic: Window(capacity) for topic in topics
        }
        self._crash_counter = CrashCounter()
        self._fenced_wait_s = fenced_wait_s
        self.name = name
        self._lane: Lane | None = None
        self._opened = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._draining = False
        self._closing = False
        self._lanes_lost = 0
        self._outdated: str | None = None
        self._on_lost = on_lost
        self._task = asyncio.create_task(self._keep_open(), name=f"slot {name}")

    @property
    def serving(self) -> bool:
        """Whether a lane is open."""
        return self._lane is not None

    @property
    def outdated(self) -> str | None:
        """Why no lane of this version may serve the partition, `None` if one may."""
        return None if self.serving else self._outdated

    @property
    def lanes_lost(self) -> int:
        """How many lanes this slot has lost."""
        return self._lanes_lost

    def __len__(self) -> int:
        """Give the number of records held."""
        return sum(len(window) for window in self._windows.values())

    def full(self, topic: str) -> bool:
        """Tell whether it holds so much of `topic` that no more should be read for it."""
        if self._windows[topic].full:
            if self._lane is not None:
                self._lane.release_records()
            return True
        return self._lane is not None and not self._lane.wants(topic)

    async def room(self, topic: str) -> None:
        """Return once more of `topic` should be read: not before a lane is open that wants it."""
        window = self._windows[topic]
        while True:
            await window.room()
            await self._opened.wait()
            lane = self._lane
            if lane is None:
                continue
            if lane.wants(topic):
                return
            room = asyncio.create_task(lane.room(topic))
            waits: list[asyncio.Future[Any]] = [room, lane.lost]
            try:  # a lane that is lost may never have room
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                room.cancel()

    @property
    def waiting(self) -> int:
        """How many requests are parked on the log."""
        return 0 if self._lane is None else self._lane.waiting

    @property
    def sessions(self) -> Counter[LifecycleState | None]:
        """How many sessions of the partition are in each state."""
        return Counter() if self._lane is None else self._lane.sessions

    @property
    def lacking(self) -> dict[TemplateRef, int] | None:
        """The templates that requests wait for, and how many do; `None`: no lane is open."""
        return None if self._lane is None else self._lane.lacking

    @property
    def committing_s(self) -> float:
        """For how many seconds a commit has been under way, 0 where none is."""
        return 0.0 if self._lane is None else self._lane.committing_s

    @property
    def deferred(self) -> int:
        """How many requests are left where they stand."""
        return 0 if self._lane is None else self._lane.deferred

    def take(self, record: InputRecord, ack: Ack, *, is_behind: bool = False) -> None:
        """Take a record. Never waits: whoever reads stops when the slot is full.

        `is_behind`: many others have been fetched behind it.
        """
        entry = self._windows[record.topic].take(record.offset, record, ack)
        if entry is not None and self._lane is not None and not self._draining:
            self._lane.serve(entry, is_behind=is_behind)

    def read_again(self, topic: str, *, stood_at: int) -> None:
        """Take records of `topic` from its log's beginning: the log ended before `stood_at`.

        What runs of the old log goes on, and is acknowledged no more.
        """
        self._windows[topic].forget_acks()
        self._windows[topic] = Window(self._capacity, again_before=stood_at)

    def may_come_again(self, topic: str) -> None:
        """Say that nothing is committed of `topic`, which is read from its log's beginning.

        The group may be new there. If it is not, the lane is to know what it has served.
        """
        self._windows[topic].may_come_again()

    def may_commit(self, topic: str) -> bool:
        """Tell whether what is acknowledged of `topic` is to be committed yet."""
        return not self._windows[topic].is_catching_up

    def confirm(self) -> None:
        """Say that the group has just assigned the partition to this worker (again)."""
        self._lease.renew()
        self._confirmed.set()

    def lose(self, lost: LaneLost) -> None:
        """Drop the lane, if there is one; another is opened when that may be."""
        if self._lane is not None:
            self._lane.lose(lost)

    async def drain(self, grace_s: float) -> bool:
        """Begin nothing more; tell whether all that ran was committed within `grace_s`."""
        self._draining = True
        lane = self._lane
        return lane is None or await lane.drain(grace_s)

    @property
    def closed(self) -> bool:
        """Whether it was given up: what it holds is not served any more."""
        return self._task.done()

    async def close(self) -> None:
        """Give the partition up. What is not done is left to the next owner."""
        if not self._closing:
            self._closing = True
            log.info("lane given up", lane=self.name, records=len(self), during=KAFKA)
            self._task.cancel()
        # Once only, and not with who waits: the lane takes its last snapshot meanwhile.
        await asyncio.wait({self._task})

    async def _keep_open(self) -> None:
        while not self._draining:
            await self._lease.wait()
            lane = self._make(self._crash_counter)
            lane.has_waiting = lambda: len(self) > 0
            lost: Exception
            try:
                await lane.open()
                if not self._draining:
                    for window in self._windows.values():
                        for entry in window.undone():
                            lane.serve(entry)
                self._lane = lane
                self._opened.set()
                lost = await lane.lost
            except (LaneLost, ServiceUnavailable) as error:
                lost = error
            # An error that nobody foresaw must not leave the partition without an owner.
            except Exception as error:
                log.exception("a lane failed in an unforeseen way", lane=self.name)
                lost = error
            finally:
                self._lane = None
                self._opened.clear()
                await self._closed(lane)
            # What the group said before counts no more: since then it gave the partition away.
            self._confirmed.clear()
            self._lanes_lost += 1
            self._on_lost()
            # A broker that is away loses lanes by several ways; each lane would tell of it.
            of = {"outage" if isinstance(lost, ServiceUnavailable) else "during": KAFKA}
            if is_denied(lost):
                of = {"outage": RIGHTS}
            log.warning("lane lost", lane=self.name, reason=str(lost), records=len(self), **of)
            self._outdated = str(lost) if isinstance(lost, LaneOutdated) else None
            await self._may_reopen(self._wait_s(lost))

    def _wait_s(self, lost: Exception) -> float:
        match lost:
            case LaneFenced():
                return self._fenced_wait_s
            case LaneOutdated():
                return _OUTDATED_AFTER_S
            case _ if is_denied(lost):
                return _DENIED_AFTER_S
            case _:
                return _REOPEN_AFTER_S

    async def _closed(self, lane: Lane) -> None:
        try:
            await lane.close()
        # What a client cannot close must not end the slot: the next lane fences it anyhow.
        except Exception:
            log.exception("a lane did not close cleanly", lane=self.name)

    async def _may_reopen(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._confirmed.wait()
        except TimeoutError:
            return
