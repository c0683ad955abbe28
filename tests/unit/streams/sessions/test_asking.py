"""Commands and their answers where nobody answers, late, in between, or while the log is away.

Others sent requests before the reader of replies stood anywhere, and waited for answers that had
come (spring-projects/spring-kafka#2319, galax-io/gatling-kafka-plugin#193).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from millstream.schemas.base import Event, Reason
from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.sessions.errors import (
    CommandIdReused,
    SessionExists,
    SessionOutcomeUnknown,
    SessionRefused,
)
from millstream.schemas.sessions.states import SessionAnswered
from millstream.schemas.topics import SESSION_COMMANDS
from millstream.streams.bus.api import EventBus
from millstream.streams.sessions.asking import SessionCommands
from millstream.streams.sessions.inputs import command_of
from tests.contracts.worlds import MemoryWorld
from tests.making.events import SOURCE
from tests.support import eventually

SOON_S = 0.05
LONG_S = 30.0


def create(command_id: str = "c1", user: str = "ada") -> SessionCommand:
    return command_of("create", user, "s", command_id=command_id)


def answered(command: SessionCommand, refused: str | None = None) -> SessionAnswered:
    return SessionAnswered(
        user_id=command.user_id,
        command_id=command.command_id,
        operation=command.operation,
        session_id=command.session_id,
        refused=None if refused is None else Reason(code=refused, message=refused),
        asked=command.digest,
        source=SOURCE,
    )


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld()


@pytest.fixture
async def bus(world: MemoryWorld) -> AsyncIterator[EventBus]:
    async with world.bus() as bus:
        yield bus


async def publish(world: MemoryWorld, *events: Event) -> None:
    async with world.bus() as lane:
        await lane.publish_batch(events)


async def test_a_command_that_nobody_answers_is_told_to_be_in_doubt(bus: EventBus) -> None:
    async with SessionCommands(bus) as commands:
        with pytest.raises(SessionOutcomeUnknown, match="it stands on the log") as told:
            await commands.ask(create(), SOON_S)
        assert (told.value.command_id, told.value.is_published) == ("c1", True)
        assert "command_id='c1'" in str(told.value)
        assert commands.waiting == 0


async def test_an_answer_that_comes_late_is_for_whoever_asks_again(
    world: MemoryWorld, bus: EventBus
) -> None:
    async with SessionCommands(bus) as commands:
        with pytest.raises(SessionOutcomeUnknown):
            await commands.ask(create(), SOON_S)
        again = asyncio.create_task(commands.ask(create(), LONG_S))
        await eventually(lambda: commands.waiting == 1)
        await publish(world, answered(create()))
        assert (await again).command_id == "c1"


async def test_only_the_answer_to_ones_own_command_counts(
    world: MemoryWorld, bus: EventBus
) -> None:
    async with SessionCommands(bus) as commands:
        mine = asyncio.create_task(commands.ask(create("c1", "ada"), LONG_S))
        await eventually(lambda: commands.waiting == 1)
        elsewhere = answered(create("c1", "ada")).model_copy(update={"tenant": "acme"})
        others = [answered(create("c1", "bob")), answered(create("c2", "ada")), elsewhere]
        refusal = answered(create("c1", "ada"), refused="session_exists")
        await publish(world, *others, refusal)
        with pytest.raises(SessionExists, match="session_exists"):
            await mine


async def test_a_reason_of_a_later_version_is_a_refusal(world: MemoryWorld, bus: EventBus) -> None:
    async with SessionCommands(bus) as commands:
        mine = asyncio.create_task(commands.ask(create(), LONG_S))
        await eventually(lambda: commands.waiting == 1)
        await publish(world, answered(create(), refused="session_on_the_moon"))
        with pytest.raises(SessionRefused, match="session_on_the_moon"):
            await mine


async def test_an_answer_to_another_command_of_the_same_id_is_none(
    world: MemoryWorld, bus: EventBus
) -> None:
    async with SessionCommands(bus) as commands:
        mine = asyncio.create_task(commands.ask(create(), LONG_S))
        await eventually(lambda: commands.waiting == 1)
        await publish(world, answered(command_of("delete", "ada", "s", command_id="c1")))
        with pytest.raises(CommandIdReused, match="'c1' was to delete session 's'"):
            await mine


async def test_an_answer_to_the_same_command_with_other_words_is_none(
    world: MemoryWorld, bus: EventBus
) -> None:
    # josipmusa/idempotency4j#12: what was kept for the id was given for another request.
    restore = command_of("restore", "ada", "s", command_id="c1", turn=2)
    async with SessionCommands(bus) as commands:
        mine = asyncio.create_task(commands.ask(restore, LONG_S))
        await eventually(lambda: commands.waiting == 1)
        await publish(world, answered(command_of("restore", "ada", "s", command_id="c1", turn=1)))
        with pytest.raises(CommandIdReused, match="'c1' was to restore the same in another way"):
            await mine


def test_what_a_command_would_do_is_what_tells_it_from_another() -> None:
    said = {"command_id": "c1", "metadata": {"a": "1", "b": "2"}, "ttl": 5}
    update = command_of("update", "ada", "s", **said, by="bob", why="asked to")
    turned = {"metadata": {"b": "2", "a": "1"}, "by": "eve", "why": None}
    assert command_of("update", "ada", "s", **said | turned).digest == update.digest
    for other in ({"metadata": {"a": "1"}}, {"metadata": None}, {"ttl": 6}, {"ttl": None}):
        assert command_of("update", "ada", "s", **said | other).digest != update.digest


async def test_no_answer_is_missed_while_the_log_is_away(world: MemoryWorld, bus: EventBus) -> None:
    async with SessionCommands(bus) as commands, world.bus() as lane:
        asked = [
            asyncio.create_task(commands.ask(create(f"c{number}"), LONG_S)) for number in range(50)
        ]
        await eventually(lambda: commands.waiting == 50)
        world.broker.go_away()
        for number in range(50):
            await lane.publish(answered(create(f"c{number}")))
        assert commands.waiting == 50
        world.broker.come_back()
        assert [(await one).command_id for one in asked] == [f"c{number}" for number in range(50)]


async def test_more_answers_than_a_queue_holds_are_all_given(
    world: MemoryWorld, bus: EventBus
) -> None:
    async with SessionCommands(bus) as commands:
        asked = [
            asyncio.create_task(commands.ask(create(f"c{number}"), LONG_S))
            for number in range(2500)
        ]
        await eventually(lambda: commands.waiting == 2500)
        await publish(world, *(answered(create(f"c{number}")) for number in reversed(range(2500))))
        assert len(await asyncio.gather(*asked)) == 2500
        assert commands.waiting == 0


async def test_a_caller_that_gives_up_disturbs_no_other(world: MemoryWorld, bus: EventBus) -> None:
    async with SessionCommands(bus) as commands:
        gone, stays = (asyncio.create_task(commands.ask(create(), LONG_S)) for _ in range(2))
        await eventually(lambda: commands.waiting == 2)
        gone.cancel()
        await publish(world, answered(create()))
        assert (await stays).command_id == "c1"
        assert gone.cancelled()


async def test_whoever_waits_as_the_bus_ends_is_told_at_once(world: MemoryWorld) -> None:
    async with world.bus() as bus:
        commands = await SessionCommands(bus).__aenter__()
        asked = asyncio.create_task(commands.ask(create(), LONG_S))
        await eventually(lambda: commands.waiting == 1)
    with pytest.raises(SessionOutcomeUnknown, match="stopped before an answer came"):
        await asked
    with pytest.raises(ServiceUnavailable, match="nothing was sent"):
        await commands.ask(create("c2"), LONG_S)
    await commands.__aexit__()
    async with world.bus() as other:
        assert len(await other.history(topics=(SESSION_COMMANDS,))) == 1


async def test_a_manager_that_is_not_open_sends_nothing(bus: EventBus) -> None:
    with pytest.raises(ServiceUnavailable, match=r"nothing was sent; use it as `async with"):
        await SessionCommands(bus).ask(create(), SOON_S)
    assert await bus.history(topics=(SESSION_COMMANDS,)) == []
