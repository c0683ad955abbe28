"""A service that ends is started again, later each time, and given up when nothing helps."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from millstream.infra.errors import ServiceDied
from millstream.infra.processes.keeping import Restarts, keep
from millstream.infra.processes.process import Command
from millstream.infra.processes.service import ChildService
from tests.support import eventually

_QUICK = Restarts(attempts_max=3, wait_s=0.01, wait_max_s=0.02)


class Program(ChildService):
    """A real child that runs until it is killed, or cannot be started while `broken` exists."""

    def __init__(self, folder: Path) -> None:
        super().__init__("probe")
        self._folder = folder
        self.starts = 0

    @property
    def broken(self) -> Path:
        return self._folder / "broken"

    async def start(self) -> None:
        self.starts += 1
        argv = ("/bin/false",) if self.broken.exists() else ("/bin/sleep", "600")
        child = await self._start(Command(self.name, argv, self._folder, self._folder / "log"))
        if self.broken.exists():
            await child.wait()
            raise child.died()


def test_attempts_come_at_growing_intervals() -> None:
    restarts = Restarts(wait_s=1, wait_max_s=5)
    assert [restarts.before(attempt) for attempt in range(1, 7)] == [0, 1, 2, 4, 5, 5]


async def test_a_service_that_ends_is_started_again_and_told_of(tmp_path: Path) -> None:
    program, told, back = Program(tmp_path), list[str](), list[int | None]()
    await program.start()
    keeping = asyncio.create_task(
        keep(
            program,
            tell=told.append,
            restarted=lambda: back.append(program.pid),
            restarts=_QUICK,
        )
    )
    first = program.pid
    await program.kill()
    await eventually(lambda: len(told) == 2)
    assert told[0] == "probe was killed by SIGKILL: it is started again"
    assert told[1].startswith("✓ probe answers again")
    assert back == [program.pid] != [first]
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await program.kill()


async def test_a_service_that_cannot_be_started_is_given_up_with_what_to_do(
    tmp_path: Path,
) -> None:
    program, told = Program(tmp_path), list[str]()
    await program.start()
    program.broken.touch()
    await program.kill()
    with pytest.raises(ServiceDied, match=r"3 attempts .* mend what its log tells") as given_up:
        await keep(program, tell=told.append, restarted=lambda: None, restarts=_QUICK)
    assert given_up.value.exit_code == 1
    assert program.starts == 1 + 3
    assert told == ["probe was killed by SIGKILL: it is started again"]


async def test_a_service_that_ends_soon_after_each_start_is_given_up(tmp_path: Path) -> None:
    program = Program(tmp_path)
    await program.start()
    killed = list[asyncio.Task[None]]()

    def kill_again() -> None:
        killed.append(asyncio.create_task(program.kill()))

    await program.kill()
    with pytest.raises(ServiceDied, match="3 attempts"):
        await keep(program, tell=lambda _: None, restarted=kill_again, restarts=_QUICK)
    assert len(killed) == 3


async def test_a_service_that_ran_well_for_long_has_all_its_attempts_again(
    tmp_path: Path,
) -> None:
    restarts = Restarts(attempts_max=1, wait_s=0.01, good_after_s=0)
    program, back = Program(tmp_path), list[int | None]()
    await program.start()
    keeping = asyncio.create_task(
        keep(
            program,
            tell=lambda _: None,
            restarted=lambda: back.append(program.pid),
            restarts=restarts,
        )
    )
    for number in range(1, 4):
        await program.kill()
        await eventually(lambda number=number: len(back) == number)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await program.kill()
