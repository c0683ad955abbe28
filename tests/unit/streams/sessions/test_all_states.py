"""States that a command for all sessions makes come to a view that nobody else feeds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from millstream.schemas.errors import ForeignKey, ServiceUnavailable
from millstream.schemas.sessions.states import SessionState
from millstream.streams.bus.memory import MemoryBus
from millstream.streams.sessions.all_states import StatesOfAll
from millstream.streams.sessions.inputs import command_of
from millstream.streams.sessions.memory import MemorySessionStore
from tests.contracts.session_view_contract import state
from tests.harness.memory_lanes import MemoryLanes

CLOSE = command_of("close", "ada", None, tenant="default")


class OneBadKey(MemorySessionStore):
    """A view with a key of another type, or one that is away."""

    def __init__(self, error: Exception) -> None:
        super().__init__(lambda: 0)
        self._error = error

    async def put_state(self, event: SessionState) -> bool:
        if event.session_id == "s3":
            raise self._error
        return await super().put_state(event)


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    lanes = MemoryLanes()
    lanes.create_topics()
    async with MemoryBus(lanes.settings, lanes.broker) as bus:
        yield bus


def closed(number: int, user: str = "ada") -> SessionState:
    return state(f"s{number}", user=user, revision=2, now="closed")


async def shown(store: MemorySessionStore, user: str = "ada") -> int:
    return len((await store.list("default", user, limit=100)).sessions)


async def test_each_of_the_users_own_is_shown_and_nobody_elses(bus: MemoryBus) -> None:
    store = MemorySessionStore(lambda: 0)
    await bus.publish(closed(99))  # before the command: the view's own feed has it
    states = await StatesOfAll.before(CLOSE, bus, store)
    await bus.publish_batch([closed(number) for number in range(70)])
    await bus.publish(closed(0, user="ben"))
    await states.write_through(70, is_fresh=True)
    assert (await shown(store), await shown(store, "ben")) == (70, 0)


async def test_a_command_that_is_sent_again_waits_for_nothing(bus: MemoryBus) -> None:
    store = MemorySessionStore(lambda: 0)
    await bus.publish(closed(1))
    states = await StatesOfAll.before(CLOSE, bus, store)
    await states.write_through(1, is_fresh=False)
    assert await shown(store) == 0


@pytest.mark.parametrize(
    ("error", "is_whole"), [(ForeignKey("s3"), True), (ServiceUnavailable("away"), False)]
)
async def test_a_view_that_cannot_take_one_fails_no_command(
    bus: MemoryBus, error: Exception, *, is_whole: bool
) -> None:
    store = OneBadKey(error)
    states = await StatesOfAll.before(CLOSE, bus, store)
    await bus.publish_batch([closed(number) for number in range(10)])
    await states.write_through(10, is_fresh=True)
    assert (await shown(store) == 9) or not is_whole
