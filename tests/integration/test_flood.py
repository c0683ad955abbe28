"""A user who floods: what is too much is left where it stands, and taken in when there is room."""

from __future__ import annotations

import pytest

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import (
    DEFERRED,
    PARKED,
    RESULTS,
)
from millstream.streams.settings import Settings
from tests.harness.lanes import (
    give,
    open_keys,
    read_topic,
    running_lanes,
    upstream,
)
from tests.support import eventually

pytestmark = pytest.mark.rule(9)


def small(settings: Settings, **changes: object) -> Settings:
    """A lane that has room for few, and lets few of a user wait."""
    few = {
        "partitions": 1,
        "runs_in_flight_max": 4,
        "runs_per_user_max": 1,
        "park_after_s": 0.2,
        "waiting_per_user_max": 4,
    }
    return settings.model_copy(update={**few, **changes})


async def results(settings: Settings, count: int) -> list[AgentResult]:
    return await read_topic(settings, RESULTS, AgentResult, count=count)


async def is_forgotten(settings: Settings) -> bool:
    return not await open_keys(settings, DEFERRED)


def in_order(found: list[AgentResult], session: str) -> bool:
    numbers = [int(one.request_id[1:]) for one in found if one.session_id == session]
    return numbers == sorted(numbers)


@pytest.mark.slow
async def test_a_mate_is_answered_while_a_flood_waits_unread(settings: Settings) -> None:
    settings = small(settings)
    async with running_lanes(settings) as (lanes,), upstream(settings) as program:
        for number in range(120):
            value = {
                "user_id": "ada",
                "request_id": f"a{number}",
                "session_id": f"s{number % 2}",
                "input": "slow: 0.05; say: x",
            }
            await program.publish(value)  # without a key: its user is told by what it says
        await eventually(lambda: lanes.figures().deferred > 60)
        await eventually(lambda: lanes.figures().held <= settings.runs_in_flight_max)
        assert lanes.figures().waiting <= 2 * settings.waiting_per_user_max
        await program.publish({"user_id": "bob", "request_id": "b0", "input": "say: x"})
        found = await results(settings, 121)
        await eventually(lambda: is_forgotten(settings))
    order = [one.request_id for one in found]
    assert len(set(order)) == 121
    assert order.index("b0") < 80
    assert in_order(found, "s0")
    assert in_order(found, "s1")
    assert await open_keys(settings, PARKED) == set()


async def test_no_more_is_read_while_too_many_users_wait_and_commands_come_through(
    settings: Settings,
) -> None:
    settings = small(settings, parked_max=40)
    async with running_lanes(settings) as (lanes,), upstream(settings) as program:

        async def ask_for(numbers: range, text: str) -> None:
            for number in numbers:
                asked = {"user_id": f"u{number}", "request_id": f"r{number}", "input": text}
                await program.publish(asked)

        async def cancelled(number: int, count: int) -> None:
            one = {"user_id": f"u{number}", "request_id": f"r{number}"}
            await give(settings, program, "cancel", **one)
            assert {found.status for found in await results(settings, count)} == {"cancelled"}

        await ask_for(range(4), "hang")
        await ask_for(range(4, 44), "say: x")
        await eventually(lambda: lanes.figures().waiting == 40)
        await cancelled(43, 1)
        await ask_for(range(44, 84), "say: x")
        # It is fetched later than what was published before it would have been.
        await cancelled(42, 2)
        assert lanes.figures().waiting == 38
        for number in range(4):
            one = {"user_id": f"u{number}", "request_id": f"r{number}"}
            await give(settings, program, "cancel", **one)
        found = await results(settings, 84)
    assert len({one.request_id for one in found}) == 84
