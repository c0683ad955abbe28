"""`runs migrate` says of each run that is meant what became of it, and ends accordingly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from millstream.gateway.cli import app
from millstream.gateway.commands.runs.migrate import Migration
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import Reason
from millstream.schemas.control.migrations import RunMigration, RunMigrationAnswered
from millstream.schemas.topics import RUN_MIGRATIONS, catalogue
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.bus.api import BEGINNING, EVERYTHING, EventFilter
from millstream.streams.bus.memory import MemoryBus
from millstream.streams.history.open_runs import OpenRun
from millstream.streams.settings import Settings

ONE = EventFilter(user_id="ada", tenant="default", request_id="r1")
RUNNING = Reason(code="run_under_way", message="pause it")


@pytest_asyncio.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    settings = Settings()
    broker = MemoryBroker(settings)
    broker.create_topics(catalogue())
    async with MemoryBus(settings, broker) as bus:
        yield bus


def open_run(request_id: str, **fields: Any) -> OpenRun:
    given = {"template": "orders", "template_version": "1", "user_id": "ada", **fields}
    return OpenRun(
        tenant="default",
        session_id="s",
        request_id=request_id,
        state="lacking",
        why="",
        since_ms=None,
        asked_at_ms=1,
        **given,
    )


async def told(
    bus: MemoryBus,
    one: Migration,
    runs: Sequence[OpenRun] = (),
    refuses: Callable[[str], Reason | None] = lambda _: None,
) -> ExitCode:
    """Give the commands; a worker answers each."""

    async def work() -> None:
        async with bus.tail([RUN_MIGRATIONS], BEGINNING) as commands:
            async for entry in commands:
                asked = entry.event
                assert isinstance(asked, RunMigration)
                refused = refuses(asked.request_id)
                answer = RunMigrationAnswered(
                    user_id=asked.user_id,
                    request_id=asked.request_id,
                    template="orders",
                    from_version="1",
                    to_version=asked.to_version,
                    dry_run=asked.dry_run,
                    moved=refused is None,
                    refused=refused,
                    source=entry.address,
                )
                await bus.publish(answer)

    working = asyncio.create_task(work())
    try:
        async with asyncio.timeout(10):
            return await one.give(bus, runs)
    finally:
        working.cancel()


async def test_one_run_that_is_moved_exits_0(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await told(bus, Migration(wanted=ONE, to_version="2")) == 0
    out, err = capsys.readouterr()
    assert out == "r1 of ada: goes on with version 2, no longer 1\n"
    assert err == "1 moved, 0 not\n"


async def test_one_that_stays_as_it_is_exits_3_and_says_why(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Migration(wanted=ONE, to_version="2", as_json=True)
    assert await told(bus, one, refuses=lambda _: RUNNING) == ExitCode.REJECTED == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["request_id"], said["outcome"], said["from_version"]) == ("r1", "refused", "1")
    assert said["reason"] == {"code": "run_under_way", "message": "pause it"}


async def test_all_of_a_template_that_are_at_the_version_are_asked_for_each(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        *(open_run(f"r{number}") for number in range(500)),
        open_run("other", template="refunds"),
        open_run("older", template_version="0"),
        open_run("there", template_version="2"),
    ]
    one = Migration(wanted=EVERYTHING, template="orders", from_version="1", to_version="2")
    code = await told(bus, one, runs, lambda name: RUNNING if name == "r7" else None)
    out, err = capsys.readouterr()
    assert code == ExitCode.REJECTED
    assert err == "499 moved, 1 not\n"
    assert len(out.splitlines()) == 500
    assert "r7 of ada: stays as it is, run_under_way: pause it\n" in out
    asked = await bus.history(topics=(RUN_MIGRATIONS,), limit=1000)
    assert {one.event.from_version for one in asked if isinstance(one.event, RunMigration)} == {"1"}


async def test_a_dry_run_says_what_could_be(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Migration(wanted=EVERYTHING, template="orders", to_version="2", dry_run=True)
    assert await told(bus, one, [open_run("r1")]) == 0
    out, err = capsys.readouterr()
    assert out == "r1 of ada: could go on with version 2, no longer 1\n"
    assert err == "1 could be moved, 0 not\n"


async def test_none_that_is_meant_exits_8_and_asks_nothing(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Migration(wanted=EVERYTHING, template="orders", from_version="1", to_version="2")
    assert await told(bus, one, [open_run("r1", template_version="0")]) == 8
    assert "no open run of template orders at version 1" in capsys.readouterr().err
    assert await bus.history(topics=(RUN_MIGRATIONS,)) == []


async def test_what_nobody_answers_is_named_and_stands(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Migration(wanted=ONE, to_version="2")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await one.give(bus)
    assert one.late(0.1) == ExitCode.TIMED_OUT
    out, err = capsys.readouterr()
    assert out == "r1 of ada: no worker has answered\n"
    assert "0 moved, 0 not, 1 not answered" in err
    assert "what was asked stands" in err
    assert len(await bus.history(topics=(RUN_MIGRATIONS,))) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--to", "2"), "name a request, or --template"),
        (("r1", "--template", "orders", "--to", "2"), "name a request, or --template"),
        (("r1", "--to", "2"), "say whose the request is"),
        (("r1", "--user", "ada"), "Missing option '--to'"),
    ],
)
def test_options_that_mean_nothing_together_exit_2(options: tuple[str, ...], problem: str) -> None:
    ended = CliRunner().invoke(app, ["runs", "migrate", *options])
    assert ended.exit_code == 2
    assert problem in ended.output
