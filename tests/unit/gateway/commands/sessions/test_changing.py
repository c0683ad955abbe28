"""`millstream sessions`: wrong usage ends before anything is connected to."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from millstream.gateway.cli import app
from millstream.gateway.exits import ExitCode, exit_code_of_error
from millstream.schemas.errors import MillstreamError
from millstream.schemas.sessions.errors import (
    CheckpointUnknown,
    SessionBusy,
    SessionInputInvalid,
    SessionOutcomeUnknown,
    SessionUnknown,
)

ADA = ("--user", "ada")


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",),
        ("create", "s", *ADA, "--ttl", "0"),
        ("create", "s", *ADA, "--ttl", "-1"),
        ("create", "s", *ADA, "--ttl", "8 hours"),
        ("create", "s", *ADA, "--ttl", "31d"),
        ("create", "s", *ADA, "--ttl", "8"),
        ("create", "s", *ADA, "--ttl-total", "8"),
        ("create", "s", *ADA, "--ttl-total", "366d"),
        ("create", "s", *ADA, "--ttl", "31536000000"),
        ("create", "s", *ADA, "--metadata", "a"),
        ("close", *ADA),
        ("close", "s", "--all", *ADA),
        ("delete", *ADA),
        ("delete", "s", "--all", *ADA, "--yes"),
        ("restore", "s", *ADA),
        ("restore", "s", *ADA, "--turn", "1", "--name", "x"),
        ("restore", "s", *ADA, "--turn", "0"),
        ("restore", "s", "1", *ADA, "--turn", "1"),
        ("restore", "s", "1", *ADA, "--name", "x"),
        ("restore", "s", "0", *ADA),
        ("restore", "s", "good", *ADA),
        ("name", "s", "0", "x", *ADA),
        ("name", "s", *ADA),
        ("name", "s", "1", *ADA),
        ("name", "s", "good", *ADA),
        ("name", "s", "good", "1", *ADA),
        ("name", "s", "1", "x", *ADA, "--turn", "1"),
        ("name", "s", "1", "x", *ADA, "--name", "x"),
        ("update", "s", *ADA),
        ("update", "s", *ADA, "--ttl", "0"),
        ("update", "s", *ADA, "--metadata", "a"),
        ("list",),
        ("list", *ADA, "--state", "asleep"),
        ("list", *ADA, "--state", "deleted"),
        ("list", *ADA, "--limit", "0"),
        ("list", *ADA, "--since", "yesterday"),
        ("show", "s"),
        ("forget", "s", *ADA),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, ["sessions", *arguments]).exit_code == ExitCode.USAGE


def test_a_time_to_live_without_a_unit_is_asked_back() -> None:
    # helm's and kubectl's: nuke-build/nuke#1043 met it, "missing unit in duration".
    shown = CliRunner().invoke(app, ["sessions", "create", *ADA, "--ttl", "8"])
    told = " ".join(shown.stderr.replace("│", "").split())
    assert "'8' has no unit: write 8s, 8m, 8h or 8d" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("name", "s"), "give one turn and one name, as in `sessions name SESSION 3 good`"),
        (("name", "s", "good", "3"), "number from 1 on, as in `sessions name SESSION 3 good`"),
        (("restore", "s"), "give a turn or --name, as in `sessions restore SESSION 3`"),
        (("restore", "s", "good"), "'good' is no turn: give a number from 1 on, or --name good"),
    ],
    ids=lambda one: one if isinstance(one, str) else " ".join(one),
)
def test_wrong_usage_of_checkpoints_shows_how_they_are_named(
    arguments: tuple[str, ...], told: str
) -> None:
    shown = CliRunner().invoke(app, ["sessions", *arguments, *ADA]).stderr
    assert told in " ".join(shown.replace("│", "").split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("name", "s", "3", "good"),
        ("name", "s", "good", "--turn", "3"),
        ("name", "s", "3", "--name", "good"),
        ("name", "s", "--turn", "3", "--name", "good"),
        ("restore", "s", "3"),
        ("restore", "s", "--turn", "3"),
        ("restore", "s", "--name", "3"),
        ("touch", "s", "--command-id", "c1", "--why", "a call"),
        ("delete", "s", "--command-id", "c1"),
    ],
    ids=" ".join,
)
def test_what_is_said_by_its_place_may_be_said_by_an_option(arguments: tuple[str, ...]) -> None:
    # It is understood, and then finds that nothing runs here.
    shown = CliRunner().invoke(app, ["sessions", *arguments, *ADA])
    assert shown.stderr.startswith("error: nothing runs here")
    assert shown.exit_code == ExitCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SessionUnknown("x"), 8),
        (CheckpointUnknown("x"), 8),
        (SessionInputInvalid("x"), 2),
        (SessionBusy("x"), 3),
        (SessionOutcomeUnknown("x", command_id="c", is_published=True), 5),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_is_refused_has_an_exit_code(error: MillstreamError, code: int) -> None:
    assert exit_code_of_error(error) == code
