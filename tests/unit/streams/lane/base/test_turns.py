"""Lanes of one worker are restored one after the other: those first for which records wait."""

from __future__ import annotations

import asyncio

import pytest

from millstream.schemas.topics import RESULTS, SNAPSHOTS
from millstream.streams.lane.base.turns import RestoreTurns
from millstream.streams.lane.state.restore import restore
from tests.harness.deployment import Deployment
from tests.harness.writing_lane import POLICY, new_state

pytestmark = pytest.mark.rule(3)


async def played(seed: int) -> Deployment:
    deployment = Deployment(seed, snapshot_records=1_000_000)
    async with deployment.lane() as lane:
        await lane.play(deployment.chance, 700, deployment.clock)
        await lane.settled()
    return deployment


class Worker:
    """Restores lanes side by side, and notes in which order they are ready."""

    def __init__(self) -> None:
        self.turns = RestoreTurns()
        self.waiting: set[str] = set()
        self.ready: list[str] = []

    async def restore(self, name: str, deployment: Deployment) -> None:
        state = new_state(deployment.settings, POLICY)
        turn = self.turns.turn(lambda: name in self.waiting)
        async with deployment.reader() as reader:
            await restore(
                state,
                reader,
                deployment.settings,
                partition=0,
                now_ms=deployment.clock(),
                upto={SNAPSHOTS.name: 0},
                turn=turn,
            )
        self.ready.append(name)


async def test_the_first_is_ready_long_before_the_last() -> None:
    worker = Worker()
    deployments = {str(number): await played(number) for number in range(4)}
    await asyncio.gather(*(worker.restore(*one) for one in deployments.items()))
    assert worker.ready == ["0", "1", "2", "3"]


async def test_those_for_which_records_wait_are_the_first() -> None:
    worker = Worker()
    worker.waiting = {"2", "3"}
    deployments = {str(number): await played(number) for number in range(4)}
    await asyncio.gather(*(worker.restore(*one) for one in deployments.items()))
    assert worker.ready == ["2", "3", "0", "1"]


async def test_records_that_come_meanwhile_count_at_once() -> None:
    turns = RestoreTurns()
    waiting: set[str] = set()
    first, second = (turns.turn(lambda name=name: name in waiting) for name in ("a", "b"))
    with first, second:
        await first.wait()
        other = asyncio.create_task(second.wait())
        await asyncio.wait({other}, timeout=0.01)
        assert not other.done()
        waiting.add("b")
        again = asyncio.create_task(first.wait())
        await other
        assert not again.done()
        waiting.clear()
        second.stalled()
        await again


async def test_one_that_a_transaction_holds_up_lets_the_others_go_on() -> None:
    worker = Worker()
    held, free = await played(1), await played(2)
    log = held.broker.partition(held.where(RESULTS))
    log.append(held.clock(), b"k", b"v", producer_id=7)
    stuck = asyncio.create_task(worker.restore("held", held))
    await worker.restore("free", free)
    assert worker.ready == ["free"]
    log.mark(7, held.clock(), is_commit=False)
    held.broker._changed()
    await stuck
    assert worker.ready == ["free", "held"]


async def test_one_that_is_given_up_leaves_its_turn() -> None:
    turns = RestoreTurns()
    first, second = turns.turn(lambda: True), turns.turn(lambda: False)
    with second:
        with first:
            waits = asyncio.create_task(second.wait())
            await asyncio.wait({waits}, timeout=0.01)
            assert not waits.done()
        await waits
