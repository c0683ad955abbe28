"""The manager over lanes, a bus and a view that are all in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from millstream.agents.executor import wall_clock_ms
from millstream.streams.bus.memory import MemoryBus
from millstream.streams.sessions.following import FollowingSessionStore
from tests.contracts.session_manager_contract import Results, SessionManagerContract, results_of
from tests.harness.memory_lanes import MemoryLanes, running_lanes


@dataclass
class MemorySessionWorld:
    """Lanes over a broker in memory."""

    bus: MemoryBus
    store: FollowingSessionStore
    results: Results
    walk_steps: int = 100


@pytest.fixture(scope="module")
async def world() -> AsyncIterator[MemorySessionWorld]:
    lanes = MemoryLanes()
    async with (
        running_lanes(lanes),
        MemoryBus(lanes.settings, lanes.broker) as bus,
        FollowingSessionStore(lanes.settings, lanes.broker, wall_clock_ms) as store,
    ):
        yield MemorySessionWorld(bus, store, await results_of(bus))


class TestSessionManagerInMemory(SessionManagerContract):
    pass
