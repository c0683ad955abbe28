"""What a worker may think of its place in the group, from what the broker answered and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest

from millstream.schemas.errors import LaneLapsed
from millstream.streams.consumer.membership import Lease, Membership

pytestmark = pytest.mark.rule(10)

SESSION_S = 6.0
HEARTBEAT = HeartbeatRequest("group", 1, "member")
JOIN = JoinGroupRequest("group", 6000, 6000, "member", None, "consumer", [])
SYNC = SyncGroupRequest("group", 1, "member", None, [])


@dataclass
class Answer:
    """What the broker answers."""

    error_code: int = 0


@dataclass
class Coordinator:
    """Stands for aiokafka's: gives the next answer, after as long as it takes."""

    answers: list[Answer] = field(default_factory=list)
    on_send: Callable[[], None] = lambda: None
    resets: int = 0

    async def _send_req(self, _request: Any) -> Answer:
        self.on_send()
        return self.answers.pop(0)

    def reset_generation(self) -> None:
        self.resets += 1


class Watch:
    """A membership with a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.forgotten = 0
        self.membership = Membership(SESSION_S, clock_s=lambda: self.now_s)
        self.coordinator = Coordinator()
        self.membership.watch(self.coordinator, self._forget)

    def _forget(self) -> None:
        self.forgotten += 1

    async def send(self, request: Any, error_code: int = 0) -> None:
        self.coordinator.answers.append(Answer(error_code))
        await self.coordinator._send_req(request)


async def test_a_member_is_fresh_for_the_session_time_out_after_what_it_sent() -> None:
    watch = Watch()
    assert not watch.membership.fresh
    await watch.send(SYNC)
    watch.now_s += SESSION_S
    assert watch.membership.fresh
    watch.now_s += 0.1
    assert not watch.membership.fresh


async def test_an_answer_counts_from_when_it_was_asked_for() -> None:
    watch = Watch()

    def sleep_past_the_session() -> None:
        watch.now_s += SESSION_S + 1

    watch.coordinator.on_send = sleep_past_the_session
    await watch.send(HEARTBEAT)
    assert not watch.membership.fresh


async def test_only_answers_that_count_the_member_in_make_it_fresh() -> None:
    fresh = {}
    for error_code in (0, 16, 25, 27):  # none, another coordinator, unknown member, rebalancing
        watch = Watch()
        await watch.send(HEARTBEAT, error_code)
        fresh[error_code] = watch.membership.fresh
    assert fresh == {0: True, 16: False, 25: False, 27: True}


async def test_a_tenure_holds_while_fresh_and_lapses_without_a_heartbeat() -> None:
    watch = Watch()
    await watch.send(SYNC)
    lease = Lease(watch.membership)
    await lease.require()
    watch.now_s += SESSION_S + 1
    with pytest.raises(LaneLapsed):
        await lease.require()
    await watch.send(HEARTBEAT)  # it was the broker that was away: nothing is lost
    await lease.require()


async def test_a_tenure_waits_for_what_comes_of_a_join_that_takes_long() -> None:
    watch = Watch()
    await watch.send(SYNC)
    lease = Lease(watch.membership)
    await watch.send(JOIN)
    watch.now_s += SESSION_S + 1
    required = asyncio.create_task(lease.require())
    await asyncio.wait({required}, timeout=0.05)
    assert not required.done()
    await watch.send(SYNC)
    await required


async def test_who_was_thrown_out_holds_nothing_until_it_is_given_again() -> None:
    watch = Watch()
    told: list[int] = []
    watch.membership.on_evicted(lambda: told.append(watch.membership.epoch))
    await watch.send(SYNC)
    lease = Lease(watch.membership)
    watch.coordinator.reset_generation()
    assert (watch.forgotten, watch.coordinator.resets) == (1, 1)
    assert told == [1]
    await watch.send(SYNC)  # taken in again, and dealt the same partitions perhaps
    with pytest.raises(LaneLapsed):
        await lease.require()
    waiting = asyncio.create_task(lease.wait())
    lease.renew()
    await waiting
    await lease.require()
