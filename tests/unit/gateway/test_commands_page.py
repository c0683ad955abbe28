"""The page of commands has every exit code and command, and every JSON answer that there is."""

from __future__ import annotations

import re

import typer.main
from typer.core import TyperGroup

from millstream.gateway.cli import app
from millstream.gateway.exits import EXIT_CODES, ExitCode
from millstream.gateway.installation import HOME

PAGE = (HOME / "docs" / "how-to" / "commands.md").read_text(encoding="utf-8")


def _commands() -> TyperGroup:
    commands = typer.main.get_command(app)
    assert isinstance(commands, TyperGroup)
    return commands


def _rows() -> dict[str, tuple[str, str]]:
    """Give what the page says of each command: its exit codes, and its JSON."""
    found = re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \| ([^|]*)\|$", PAGE, re.MULTILINE)
    return {name: (exits.strip(), json.strip()) for name, exits, json in found}


def test_the_page_has_the_exit_codes_of_the_code() -> None:
    told = re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)
    assert told == [(str(int(code)), meaning) for code, meaning in EXIT_CODES.items()]
    assert set(EXIT_CODES) == set(ExitCode)


def test_the_page_has_every_command() -> None:
    assert list(_rows()) == list(_commands().commands)


def test_the_page_names_codes_that_there_are() -> None:
    for exits, _ in _rows().values():
        assert {int(code) for code in re.findall(r"\d+", exits)} <= set(ExitCode)


def test_a_command_that_the_page_says_answers_in_json_has_the_option() -> None:
    for name, command in _commands().commands.items():
        members = command.commands.values() if isinstance(command, TyperGroup) else [command]
        has_option = all(any("--json" in one.opts for one in each.params) for each in members)
        answers = _rows()[name][1]
        assert has_option == (bool(answers) and name != "worker"), name
