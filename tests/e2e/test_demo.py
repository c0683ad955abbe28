"""`millstream demo` as `make demo` runs it, with the scripted model for the sake of time."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.e2e.programs import ended, interrupt, line_with, millstream, running_with
from tests.services.running import Services
from tests.support import eventually


@pytest.fixture
def environment(services: Services, tmp_path: Path) -> dict[str, str]:
    """Variables of a demonstration on the session's services."""
    return services.variables(
        f"t-{secrets.token_hex(6)}",
        MILLSTREAM_DATA_DIR=str(tmp_path),
        MILLSTREAM_DEFAULT_MODEL="scripted",
        MILLSTREAM_SCRIPTED_MODEL="on",
    )


async def test_the_demo_shows_the_whole_path_and_leaves_nothing_running(
    environment: dict[str, str],
) -> None:
    async with millstream(environment, "demo") as process:
        told = await ended(process, 110)
    assert told.code == 0, told.err
    positions = [told.out.index(f"━━ {number} of 6 ━━") for number in range(1, 7)]
    assert positions == sorted(positions)
    step = dict(zip(range(1, 7), told.out.split("━━ ")[2::2], strict=True))
    assert step[2].count("→") == 5
    assert step[3].count("completed by scripted") == 3
    assert "mallory" in step[4]
    assert "forbidden: " in step[4]
    assert "rate_limited: user 'bob' may make 2 requests in 60 s" in step[4]
    assert all(user in step[5] for user in ("ada", "bob", "mallory"))
    assert "asks chat_agent: Name the planets" in step[6]
    assert "completed, " in step[6]
    assert "first token " in told.out
    assert running_with(f"MILLSTREAM_NAMESPACE={environment['MILLSTREAM_NAMESPACE']}") == set()


async def test_not_even_a_killed_demo_leaves_anything_running(environment: dict[str, str]) -> None:
    async with millstream(environment, "demo") as process:
        assert process.stdout is not None
        await line_with(process.stdout, "2 of 6")
        process.kill()
        await process.wait()
    variable = f"MILLSTREAM_NAMESPACE={environment['MILLSTREAM_NAMESPACE']}"
    await eventually(lambda: not running_with(variable))


@pytest.mark.parametrize("words", ["1 of 6", "2 of 6"])
async def test_ctrl_c_stops_the_demo_wherever_it_is(
    environment: dict[str, str], words: str
) -> None:
    async with millstream(environment, "demo") as process:
        assert process.stdout is not None
        await line_with(process.stdout, words)
        told = await interrupt(process)
    assert told.code == 130, told.err
    assert "Traceback" not in told.err
    assert running_with(f"MILLSTREAM_NAMESPACE={environment['MILLSTREAM_NAMESPACE']}") == set()
