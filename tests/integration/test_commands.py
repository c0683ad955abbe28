"""Commands are carried out once, whoever reads them again, and leave nothing behind."""

from __future__ import annotations

from millstream.schemas.base import Address
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import (
    CONTROL,
    HOLDS,
    RESULTS,
)
from millstream.streams.settings import Settings
from millstream.streams.wire.records import origin_header
from tests.harness.lanes import (
    OneLane,
    ask,
    give,
    lane_services,
    one_lane,
    open_keys,
    read_topic,
    upstream,
)
from tests.support import eventually


async def acked_commands(settings: Settings, owner: OneLane, *, count: int) -> None:
    await eventually(lambda: owner.acked_of[settings.topic(CONTROL.name)] == count)


async def statuses(settings: Settings, *, count: int) -> dict[str, str]:
    results = await read_topic(settings, RESULTS, AgentResult, count=count)
    return {result.request_id: result.status for result in results}


async def test_a_command_that_is_moved_twice_is_one(settings: Settings) -> None:
    origin = origin_header(Address(topic=settings.topic(CONTROL.name), partition=99, offset=7))
    async with lane_services(settings) as services, upstream(settings) as program:
        moved, again = [await give(settings, program, "pause", request_id="r1") for _ in range(2)]
        resume = await give(settings, program, "resume", request_id="r1")
        async with one_lane(settings, services, None) as owner:
            owner.serve(*moved, origin)
            await acked_commands(settings, owner, count=1)
            assert len(await open_keys(settings, HOLDS)) == 1
            owner.serve(*resume)
            await acked_commands(settings, owner, count=2)
        async with one_lane(settings, services, None) as owner:
            owner.serve(*again, origin)  # by a worker that slept, say
            owner.serve(*await ask(program, "say: x"))
            assert await statuses(settings, count=1) == {"r1": "completed"}
            await acked_commands(settings, owner, count=1)
    assert await open_keys(settings, HOLDS) == set()
