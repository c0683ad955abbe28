"""A command says what became of it: done, too late, of nothing, or of nothing paused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import pytest
import pytest_asyncio

from millstream.gateway.commands.control.cancel import give_cancel
from millstream.gateway.commands.control.control import Command, user_command
from millstream.gateway.commands.control.pause import give_pause, give_resume
from millstream.gateway.exits import ExitCode
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import CONTROL, catalogue
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.bus.api import BEGINNING, EventBus
from millstream.streams.bus.memory import MemoryBus
from millstream.streams.settings import Settings
from tests import making

REQUEST = making.request(input="Hi", request_id="r", session_id="s")
Give = Callable[[EventBus, Command], Awaitable[ExitCode]]


@pytest_asyncio.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    settings = Settings()
    broker = MemoryBroker(settings)
    broker.create_topics(catalogue())
    async with MemoryBus(settings, broker) as bus:
        yield bus


async def told(
    bus: EventBus,
    give: Give,
    word: Literal["cancel", "pause", "resume"],
    *,
    request_id: str | None = "r",
    as_json: bool = False,
    answer: Callable[[ControlCommand, dict[str, Any]], Any] = lambda _, __: None,
) -> ExitCode:
    """Give a command; `answer` makes what a worker writes of it."""
    session = "s" if request_id is None else None
    event = user_command(word, user="ada", tenant="default", request_id=request_id, session=session)

    async def work() -> None:
        async with bus.tail([CONTROL], BEGINNING) as commands:
            async for one in commands:
                assert isinstance(one.event, ControlCommand)
                written = answer(one.event, {"source": one.address})
                if written is not None:
                    await bus.publish(written)

    working = asyncio.create_task(work())
    try:
        async with asyncio.timeout(10):
            return await give(bus, Command(event, timeout_s=10, as_json=as_json))
    finally:
        working.cancel()


def obeys(**fields: Any) -> Callable[[ControlCommand, dict[str, Any]], Any]:
    def answer(command: ControlCommand, of_it: dict[str, Any]) -> Any:
        return making.obeyed(
            command=command.command,
            request_id=command.request_id,
            session_id=command.session_id,
            **of_it,
            **fields,
        )

    return answer


def ends(status: str) -> Callable[[ControlCommand, dict[str, Any]], AgentResult]:
    return lambda _command, _of_it: making.result(request_id="r", status=status)


async def test_a_request_that_is_cancelled_exits_0(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    await bus.publish(REQUEST)
    assert await told(bus, give_cancel, "cancel", answer=ends("cancelled")) == 0
    assert capsys.readouterr().err == "request r: cancelled\n"


async def test_a_cancel_of_a_request_that_has_ended_says_so_and_publishes_nothing(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    await bus.publish(REQUEST)
    await bus.publish(making.result("Paris", request_id="r"))
    assert await told(bus, give_cancel, "cancel") == ExitCode.NOTHING_THERE == 8
    assert capsys.readouterr().err == "request r: had ended before: completed\n"
    assert await bus.history(topics=(CONTROL,)) == []


async def test_a_cancel_that_comes_too_late_says_how_the_request_ended(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    await bus.publish(REQUEST)
    assert await told(bus, give_cancel, "cancel", answer=ends("completed"), as_json=True) == 8
    said = json.loads(capsys.readouterr().out)
    assert (said["command"], said["outcome"], said["status"]) == (
        "cancel",
        "had_ended",
        "completed",
    )


@pytest.mark.parametrize(
    ("give", "word", "answer"),
    [(give_cancel, "cancel", ends("cancelled")), (give_pause, "pause", obeys(had_ended=False))],
)
async def test_a_request_that_nobody_made_is_told_to_be_none(
    bus: MemoryBus,
    capsys: pytest.CaptureFixture[str],
    give: Give,
    word: Literal["cancel", "pause"],
    answer: Any,
) -> None:
    await bus.publish(REQUEST.model_copy(update={"user_id": "grace"}))
    assert await told(bus, give, word, answer=answer) == 8
    assert capsys.readouterr().err.startswith("request r: no such request of this user ha")
    # It stands all the same: the request may be on its way.
    assert len(await bus.history(topics=(CONTROL,))) == 1


async def test_a_request_of_which_only_a_decision_is_left_is_known(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    await bus.publish(making.decision(request_id="r"))
    assert await told(bus, give_pause, "pause", answer=obeys(had_ended=False)) == 0
    assert "waits from now on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "fields", "outcome"),
    [
        ("pause", {"had_ended": True}, "had_ended"),
        ("resume", {"was_paused": False}, "not_paused"),
        ("resume", {"was_paused": True}, "done"),
        ("resume", {}, "done"),
    ],
)
async def test_json_says_what_became_of_a_command(
    bus: MemoryBus,
    capsys: pytest.CaptureFixture[str],
    word: Literal["pause", "resume"],
    fields: dict[str, bool],
    outcome: str,
) -> None:
    give = give_pause if word == "pause" else give_resume
    code = await told(bus, give, word, answer=obeys(**fields), as_json=True)
    assert code == (0 if outcome == "done" else 8)
    said = capsys.readouterr()
    assert json.loads(said.out) == {"command": word, "outcome": outcome, "request_id": "r"}
    assert said.err == ""


@pytest.mark.parametrize(("give", "word"), [(give_cancel, "cancel"), (give_pause, "pause")])
async def test_a_session_needs_not_be_known(
    bus: MemoryBus,
    capsys: pytest.CaptureFixture[str],
    give: Give,
    word: Literal["cancel", "pause"],
) -> None:
    assert await told(bus, give, word, request_id=None, answer=obeys(), as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"command": word, "outcome": "done", "session_id": "s"}


@pytest.mark.parametrize(
    ("published", "words"), [(True, "does a worker run?"), (False, "Kafka has not taken the pause")]
)
def test_no_time_left_is_told_by_how_far_the_command_came(
    capsys: pytest.CaptureFixture[str],
    published: bool,  # noqa: FBT001
    words: str,
) -> None:
    event = user_command("pause", user="ada", tenant="default", request_id="r", session=None)
    command = Command(event, timeout_s=0.5, as_json=False)
    command.published = published
    assert command.late() == ExitCode.TIMED_OUT
    assert words in capsys.readouterr().err
