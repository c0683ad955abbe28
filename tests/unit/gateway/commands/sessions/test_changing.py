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
        ("name", "s", "0", "x", *ADA),
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
