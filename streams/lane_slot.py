"""The place of a lane in a worker: it outlives the lane, keeps the records, and opens it anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from schemas.errors import LaneFenced, LaneLost, ServiceUnavailable
from streams.intake import InputRecord
from streams.lane import Lane
from streams.window import Ack, Window

log = structlog.get_logger(__name__)

OpenLane = Callable[[Window[InputRecord]], Lane]
"""Makes a lane over a window of records; nothing is started yet."""

_REOPEN_AFTER_S = 1.0


class LaneSlot:
    """Holds one assigned partition: a window of records and, as long as it lives, a lane.

    A lost lane is replaced. The new one restores from the topics and gets the records that are
    not done from the window. A fenced one is replaced only when the group has said again whose
    the partition is, or `fenced_wait_s` has passed, after which this member would be out of it:
    a worker that slept past its session must not take back what is another's.
    """

    def __init__(
        self,
        make: OpenLane,
        *,
        capacity: int,
        fenced_wait_s: float,
        name: str,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._make = make
        self._window: Window[InputRecord] = Window(capacity, on_room=on_room)
        self._fenced_wait_s = fenced_wait_s
        self._name = name
        self._lane: Lane | None = None
        self._confirmed = asyncio.Event()
        self._draining = False
        self._lanes_lost = 0
        self._task = asyncio.create_task(self._keep_open(), name=f"slot {name}")

    @property
    def serving(self) -> bool:
        """Whether a lane is open."""
        return self._lane is not None

    @property
    def lanes_lost(self) -> int:
        """How many lanes this slot has lost."""
        return self._lanes_lost

    def __len__(self) -> int:
        """Give the number of records held."""
        return len(self._window)

    @property
    def full(self) -> bool:
        """Whether it holds so much that no more should be read for it."""
        return self._window.full

    def take(self, record: InputRecord, ack: Ack) -> None:
        """Take a record. Never waits: whoever reads stops when the slot is full."""
        entry = self._window.take(record.offset, record, ack)
        if entry is not None and self._lane is not None and not self._draining:
            self._lane.serve(entry)

    def confirm(self) -> None:
        """Say that the group has just assigned the partition to this worker (again)."""
        self._confirmed.set()

    async def drain(self, grace_s: float) -> bool:
        """Take no more work; tell whether all that ran ended within `grace_s`."""
        self._draining = True
        lane = self._lane
        return lane is None or await lane.idle(grace_s)

    async def close(self) -> None:
        """Give the partition up. What is not done is left to the next owner."""
        log.info("lane given up", lane=self._name, records=len(self._window))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_open(self) -> None:
        while not self._draining:
            lane = self._make(self._window)
            lost: Exception
            try:
                await lane.open()
                if not self._draining:
                    for entry in self._window.undone():
                        lane.serve(entry)
                self._lane = lane
                lost = await lane.lost
            except (LaneLost, ServiceUnavailable) as error:
                lost = error
            # An error that nobody foresaw must not leave the partition without an owner.
            except Exception as error:
                log.exception("a lane failed in an unforeseen way", lane=self._name)
                lost = error
            finally:
                self._lane = None
                await lane.close()
            # What the group said before counts no more: since then it gave the partition away.
            self._confirmed.clear()
            self._lanes_lost += 1
            log.warning("lane lost", lane=self._name, reason=str(lost), records=len(self._window))
            fenced = isinstance(lost, LaneFenced)
            await self._may_reopen(self._fenced_wait_s if fenced else _REOPEN_AFTER_S)

    async def _may_reopen(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._confirmed.wait()
        except TimeoutError:
            return
