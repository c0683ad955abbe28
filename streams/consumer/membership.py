"""Whether this worker is still a member of its consumer group, as far as it can know.

The broker gives a member's partitions away once it has heard no heartbeat for the session
time-out. A worker that was stopped or cut off does not learn of that by itself: it looks at how old
its last heartbeat is that the broker took, by the time it was *sent*. And a member that was thrown
out and taken in again has lost what it held, even if it was dealt the same partitions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest

from millstream.schemas.errors import LaneLapsed
from millstream.streams.telemetry.causes import is_denied, is_transient
from millstream.streams.telemetry.outages import KAFKA, RIGHTS

log = structlog.get_logger(__name__)

_JOIN_AGAIN_S = 1.0

_NO_ERROR = 0
_REBALANCE_IN_PROGRESS = 27
"""The broker's answer to a heartbeat of a member that is to join anew: it is one still."""


def since_boot_s() -> float:
    """Give seconds that go on while the machine sleeps, where there is such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


_COUNTED_IN = frozenset({_NO_ERROR, _REBALANCE_IN_PROGRESS})


class Membership:
    """What the group's coordinator last told this member.

    `epoch` counts how often it was thrown out, or left.
    """

    def __init__(
        self, session_timeout_s: float, *, clock_s: Callable[[], float] = since_boot_s
    ) -> None:
        self._session_timeout_s = session_timeout_s
        self._clock_s = clock_s
        self._heard_at_s = float("-inf")
        self._waiting: set[asyncio.Future[None]] = set()
        self._on_evicted: list[Callable[[], None]] = []
        self.joining = False
        self.epoch = 0

    @property
    def fresh(self) -> bool:
        """Whether the broker has heard of this member within the session time-out."""
        return self._clock_s() - self._heard_at_s <= self._session_timeout_s

    def on_evicted(self, tell: Callable[[], None]) -> None:
        """Call `tell` each time this member is thrown out or leaves."""
        self._on_evicted.append(tell)

    def heard(self, sent_at_s: float) -> None:
        """Note that the broker answered what was sent at this time: it counts us in."""
        self.joining = False
        self._heard_at_s = sent_at_s
        self.wake()

    def evicted(self) -> None:
        """Note that the broker does not know this member any more."""
        self.epoch += 1
        self._heard_at_s = float("-inf")
        for tell in self._on_evicted:
            tell()
        self.wake()

    async def changed(self) -> None:
        """Wait until the coordinator has told something new."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def watch(self, coordinator: Any, forget: Callable[[], None]) -> None:
        """Listen to what aiokafka's coordinator hears, which it keeps to itself.

        `forget` is called when this member is thrown out, before it joins anew.
        """
        send, reset = coordinator._send_req, coordinator.reset_generation  # noqa: SLF001

        async def send_and_note(request: Any) -> Any:
            if isinstance(request, JoinGroupRequest):
                self.joining = True
            sent_at_s = self._clock_s()
            answer = await send(request)
            if isinstance(request, SyncGroupRequest):
                if answer.error_code == _NO_ERROR:
                    self.heard(sent_at_s)
            elif isinstance(request, HeartbeatRequest) and answer.error_code in _COUNTED_IN:
                self.heard(sent_at_s)
            return answer

        def reset_and_note() -> None:
            forget()
            self.evicted()
            reset()

        coordinator._send_req = send_and_note  # noqa: SLF001
        coordinator.reset_generation = reset_and_note

    def wake(self) -> None:
        """Let those look again who wait for a change."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


class Lease:
    """Holds what the group gave to this member for as long as it is known to be a member.

    `rights` is set while this user has what a lane needs: nothing begins without.
    """

    def __init__(self, membership: Membership, *, rights: asyncio.Event | None = None) -> None:
        self._membership = membership
        self._rights = rights
        self._epoch = membership.epoch

    @property
    def _holds(self) -> bool:
        return self._epoch == self._membership.epoch and self._membership.fresh

    def renew(self) -> None:
        """Say that the group has just given it, again."""
        self._epoch = self._membership.epoch
        self._membership.wake()

    async def wait(self) -> None:
        """Wait until it is known to hold; for ever, if the group gives it to another."""
        if self._rights is not None:
            await self._rights.wait()
        while not self._holds:
            await self._membership.changed()

    async def require(self) -> None:
        """Return at once where it holds; raise `LaneLapsed` where it may not.

        While this member joins, the broker waits for it and takes no heartbeats: then wait for
        what comes of that.
        """
        while not self._holds:
            if self._epoch != self._membership.epoch:
                message = "the group had given this worker up"
                raise LaneLapsed(message)
            if not self._membership.joining:
                message = "no heartbeat for the session time-out: the partition may be another's"
                raise LaneLapsed(message)
            await self._membership.changed()


async def join_on(consumer: Any, coordinator: Any) -> None:
    """Have a join that was refused be tried again, until `consumer`, a service of Faust's, stops.

    aiokafka tries no more until whoever reads was told of it, and Faust reads only what was dealt.
    """
    while not consumer.should_stop:
        await consumer.sleep(_JOIN_AGAIN_S)
        if consumer.assignment():
            continue  # whoever reads is told
        try:
            coordinator.check_errors()
        except (KafkaError, OSError) as error:
            if not (is_denied(error) or is_transient(error)):
                await consumer.crash(error)
                return
            outage = RIGHTS if is_denied(error) else KAFKA
            log.warning("a group is not joined yet", reason=repr(error), outage=outage)
