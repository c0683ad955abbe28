"""An app of one's own, from an empty folder to answers on Kafka, by the command line alone."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
from pathlib import Path

import pytest

from tests.e2e.programs import interrupt, line_with, millstream, run, running_with
from tests.services.running import Services

LOUD = 'return print("looked up") or _HOURS'

# This machine may be busy with other tests.
PATIENCE = 5

ASKS = 'call: opening_hours {"day": "Sunday"}; say: we are {tool_result}'


@pytest.fixture
def environment(services: Services, tmp_path: Path) -> dict[str, str]:
    """Variables of an app on the session's services."""
    return services.variables(
        f"t-{secrets.token_hex(6)}",
        MILLSTREAM_DATA_DIR=str(tmp_path / "data"),
        MILLSTREAM_DEFAULT_MODEL="scripted",
        MILLSTREAM_SCRIPTED_MODEL="on",
    )


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def names_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_an_app_is_made_run_talked_to_and_changed_on_save(
    environment: dict[str, str], tmp_path: Path
) -> None:
    made = await run(environment, "new", "shop", folder=tmp_path)
    assert made.code == 0, made.err
    assert "Now: millstream dev shop/app.py" in made.err
    async with millstream(environment, "dev", "shop/app.py", folder=tmp_path) as dev:
        assert dev.stderr is not None
        await line_with(dev.stderr, "templates: chat_agent, react_agent, structured_agent, shop")
        await line_with(dev.stderr, "metrics: http://127.0.0.1:")
        first = await run(environment, "chat", "shop", typed=f"{ASKS}\n/new\nsay: hello\n")
        assert (first.code, first.out) == (0, "we are closed\nhello\n"), first.err
        assert first.err.count("completed in ") == 2

        # What a tool prints is shown where the worker is, and is no part of what it tells.
        change(tmp_path / "shop" / "tools.py", '"closed"', '"asleep"')
        change(
            tmp_path / "shop" / "tools.py", "return _HOURS", 'return print("looked up") or _HOURS'
        )
        await line_with(dev.stderr, "taken over in ")
        second = await run(environment, "chat", "shop", typed=ASKS)
        assert second.out == "we are asleep\n", second.err
        await line_with(dev.stderr, "looked up")

        change(tmp_path / "shop" / "tools.py", "def opening_hours", "def hours_of_opening")
        await line_with(dev.stderr, "shop/app.py:5: it does not import: ImportError: cannot import")
        await line_with(dev.stderr, "the worker goes on with what it had")
        third = await run(environment, "chat", "shop", typed=ASKS)
        assert third.out == "we are asleep\n", third.err
        told = await interrupt(dev)
    assert told.code == 0, told.err
    assert running_with(f"MILLSTREAM_NAMESPACE={environment['MILLSTREAM_NAMESPACE']}") == set()


async def test_the_tests_of_a_new_app_pass_within_two_seconds(tmp_path: Path) -> None:
    assert (await run({}, "new", "shop", folder=tmp_path)).code == 0
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "shop"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    seconds = re.search(rb"2 passed in ([0-9.]+)s", out)
    assert seconds is not None, out.decode()
    assert float(seconds[1]) < 2 * PATIENCE


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Shop", "'Shop' cannot be the name of a package: write for instance `shop`"),
        ("my-shop", "'my-shop' cannot be the name of a package: write for instance `my_shop`"),
        ("class", "'class' cannot be the name of a package: write for instance `orders`"),
        ("json", "'json' is a module of Python or Millstream: choose another name"),
        ("taken", "there is a taken already: choose another name"),
    ],
)
async def test_a_name_that_no_app_can_have_is_refused(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "taken").mkdir()
    refused = await run({}, "new", name, folder=tmp_path)
    assert refused.code == 2
    assert told in " ".join(refused.err.replace("│", " ").split())
    assert names_in(tmp_path) == ["taken"]


@pytest.mark.parametrize(
    "command",
    [["dev", "shop/app.py"], ["up", "--app", "shop.app"], ["worker", "--app", "shop"]],
    ids=lambda command: command[0],
)
async def test_all_mistakes_of_an_app_are_told_before_anything_is_started(
    environment: dict[str, str], tmp_path: Path, command: list[str]
) -> None:
    await run(environment, "new", "shop", folder=tmp_path)
    change(tmp_path / "shop" / "shop.yaml", "tools: [opening_hours]", "tools: [hours]\nlimit: 3")
    change(tmp_path / "shop" / "app.py", '"policy.yaml"', '"police.yaml"')
    refused = await run(environment, *command, folder=tmp_path)
    assert refused.code == 6, refused.err
    assert "shop.yaml" in refused.err
    assert "limit" in refused.err
    assert "policy: there is no file shop/police.yaml" in refused.err
    assert "Traceback" not in refused.err
