"""The list of commands: what it says of each is what the command says, and names are looked up."""

from __future__ import annotations

import inspect

import pytest
import typer.main
from typer.core import TyperGroup
from typer.testing import CliRunner

from millstream.gateway.cli import app
from millstream.gateway.command_list import COMMANDS
from millstream.gateway.commands.group import CommandGroup, Listed

runner = CliRunner()


def _group() -> TyperGroup:
    commands = typer.main.get_command(app)
    assert isinstance(commands, TyperGroup)
    return commands


@pytest.mark.parametrize("listed", COMMANDS, ids=lambda one: one.name)
def test_the_list_says_of_a_command_what_its_own_help_says_first(listed: Listed) -> None:
    command = _group().commands[listed.name]
    assert command.name == listed.name
    assert not command.hidden
    first = inspect.cleandoc(command.help or "").partition("\n\n")[0]
    assert " ".join(first.split()) == listed.about


def test_no_name_stands_twice_in_the_list() -> None:
    names = [one.name for one in COMMANDS]
    assert len(names) == len(set(names))


def test_whoever_walks_the_app_finds_every_command() -> None:
    commands = _group().commands
    assert list(commands) == [one.name for one in COMMANDS]
    assert len(commands) == len(COMMANDS)
    assert all(name == command.name for name, command in commands.items())
    assert "pause" in commands
    assert commands.get("paus") is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["paus"], "pause"), (["dead-leters"], "dead-letters"), (["sessions", "lst"], "list")],
)
def test_a_name_that_is_misspelt_is_told_the_right_one(typed: list[str], meant: str) -> None:
    shown = runner.invoke(app, typed)
    assert shown.exit_code == 2
    assert f"No such command '{typed[-1]}'. Did you mean '{meant}'?" in shown.stderr


def test_a_command_of_a_group_shows_its_own_help() -> None:
    shown = runner.invoke(app, ["sessions", "rebuild", "--help"])
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.startswith("Usage: millstream sessions rebuild [OPTIONS]\n")


def test_a_group_offers_to_install_nothing() -> None:
    for name in ("sessions", "templates", "dead-letters", "pause"):
        assert "completion" not in runner.invoke(app, [name, "--help"]).stdout


def test_a_command_that_is_listed_where_it_is_not_ends_in_a_line_that_names_it() -> None:
    class Misled(CommandGroup):
        listed = (Listed("pause", "control.pause:halt", "Pause."),)

    misled = typer.Typer(cls=Misled, rich_markup_mode=None)
    misled.callback()(lambda: None)
    assert "Pause." in runner.invoke(misled, ["--help"]).stdout
    error = runner.invoke(misled, ["pause"]).exception
    assert isinstance(error, AttributeError)
    assert "halt" in str(error)
