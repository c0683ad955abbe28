"""The tutorial, followed from an empty folder: each file is made and each command is run, in order.

Others' first pages broke where nobody ran them: google/adk-docs#41 (a name that the page did not
export), agentos-project/agentos#90 (an import that its snippets lacked).
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shlex
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.e2e.programs import Ended, interrupt, line_with, millstream, run
from tests.services.running import Services

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "tutorial.md").read_text(encoding="utf-8")

_PART = re.compile(
    r"(?:<!-- run: (\S+) -->\n|\*\*(\S+)\*\*\n\n)```(?:sh|python|yaml)\n(.*?)```", re.DOTALL
)
PARTS = [
    ("run" if command else "file", command or file, text)
    for command, file, text in _PART.findall(PAGE)
]
"""Kind, name and text of each part, in the page's order."""

COMMANDS = {name: shlex.split(text)[1:] for kind, name, text in PARTS if kind == "run"}
"""The arguments of each command, by its name."""

ORDER = ("new", "dev", "chat", "history", "test", "test-all", "check", "worker", "submit")

FRIDAY = 'call: opening_hours {"day": "Friday"}; say: {tool_result}'
STOCK = 'call: in_stock {"item": "kettle"}; say: {tool_result} in stock'
PARCEL = 'call: delivery_days {"country": "DE"}; say: {tool_result} day'


def files_before(name: str) -> list[tuple[str, str]]:
    """Give the files that somebody has made once they come to a command: the newest of each."""
    at = next(number for number, (kind, of, _) in enumerate(PARTS) if (kind, of) == ("run", name))
    return [(path, text) for kind, path, text in PARTS[:at] if kind == "file"]


def make_files(folder: Path, name: str) -> None:
    for path, text in files_before(name):
        (folder / path).write_text(text, encoding="utf-8")


async def pytest_run(folder: Path, name: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("pytest")), "-q", "-p", "no:cacheprovider"),
        *COMMANDS[name],
        cwd=folder,
        stdout=PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


def test_each_part_of_the_page_is_run() -> None:
    assert tuple(COMMANDS) == ORDER
    named = {text for _, _, text in PARTS}
    blocks = re.findall(r"```(?:sh|python|yaml)\n(.*?)```", PAGE, re.DOTALL)
    # What is not run here sets this machine up, or says where Kafka is: make, mkdir, export.
    others = [block for block in blocks if block not in named]
    words = {line.split()[0] for block in others for line in block.splitlines()}
    assert words == {"make", "export", "mkdir"}


async def test_the_path_that_the_page_sets_has_both_commands(tmp_path: Path) -> None:
    (line,) = re.findall(r"^(export PATH=.*)$", PAGE, re.MULTILINE)
    script = (
        f'cd {shlex.quote(str(PROJECT))}\n{line}\ncd "$1"\nmillstream --version\npytest --version'
    )
    process = await asyncio.create_subprocess_exec(
        *("sh", "-eu", "-c", script, "sh", str(tmp_path)), stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert len(out.splitlines()) + len(err.splitlines()) >= 2


async def test_the_tests_of_the_whole_page_pass(tmp_path: Path) -> None:
    assert (await run({}, *COMMANDS["new"], folder=tmp_path)).code == 0
    make_files(tmp_path, "test-all")
    assert "5 passed" in await pytest_run(tmp_path, "test-all")


def scripted(services: Services, folder: Path) -> dict[str, str]:
    return services.variables(
        f"t-{secrets.token_hex(6)}",
        MILLSTREAM_DATA_DIR=str(folder / "data"),
        MILLSTREAM_DEFAULT_MODEL="scripted",
        MILLSTREAM_SCRIPTED_MODEL="on",
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_the_agent_answers_as_it_grows_and_once_it_is_deployed(
    services: Services, tmp_path: Path
) -> None:
    environment = scripted(services, tmp_path)

    async def chat(text: str) -> Ended:
        return await run(environment, *COMMANDS["chat"], folder=tmp_path, typed=text)

    assert (await run(environment, *COMMANDS["new"], folder=tmp_path)).code == 0
    async with millstream(environment, *COMMANDS["dev"], folder=tmp_path) as dev:
        assert dev.stderr is not None
        await line_with(dev.stderr, "millstream chat shop")
        first = await chat(FRIDAY)
        assert first.out == "9 to 17\n", first.err
        assert "opening_hours" in first.err
        history = await run(environment, *COMMANDS["history"], folder=tmp_path)
        assert "completed" in history.out, history.err
        make_files(tmp_path, "test")
        assert "3 passed" in await pytest_run(tmp_path, "test")
        await line_with(dev.stderr, "taken over in ")
        assert (await chat(STOCK)).out == "3 in stock\n"
        assert (await interrupt(dev)).code == 0
    make_files(tmp_path, "worker")
    checked = await run(environment, *COMMANDS["check"], folder=tmp_path)
    assert checked.code == 0, checked.err
    async with millstream(environment, *COMMANDS["worker"], folder=tmp_path) as worker:
        assert worker.stdout is not None
        await line_with(worker.stdout, "{")
        assert (await chat(PARCEL)).out == "1 day\n"
        asked = COMMANDS["submit"]
        assert "Is a kettle in stock?" in asked
        told = await run(environment, *asked, folder=tmp_path)
        assert (told.code, told.out.strip()) == (0, "Is a kettle in stock?"), told.err
        assert (await interrupt(worker)).code in {0, 130}


def test_the_readmes_three_commands_are_those_of_the_tutorial() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- commands: own-agent -->\n```sh\n(.*?)```", readme, re.DOTALL)
    lines = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    assert lines == [COMMANDS[name] for name in ("new", "dev", "chat")]
