"""A person is asked before something goes for good, and a no is no success."""

from __future__ import annotations

import io
import sys

import pytest
import typer

from millstream.gateway.commands.sessions.giving import ask_first
from millstream.gateway.exits import ExitCode


class Terminal(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("typed", ["n\n", "no\n", "\n", "", "maybe\n", "yess\n"])
def test_whoever_says_no_gets_an_exit_code_that_tells(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # pulumi/pulumi#931, redis/redisctl#1059, aws/aws-cdk-cli#1667: a no, and the end of the input,
    # exited 0, and a script went on as if it were deleted.
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    with pytest.raises(typer.Exit) as ended:
        ask_first("delete session s?", yes=False)
    assert ended.value.exit_code == ExitCode.FAILED
    assert "nothing was done" in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["y\n", "Y\n", " yes \n"])
def test_whoever_says_yes_is_asked_once(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    ask_first("delete session \x1b[31ms?", yes=False)
    shown = capsys.readouterr()
    assert shown.err.count("[y/N]") == 1
    assert (shown.out, "\x1b" in shown.err) == ("", False)


@pytest.mark.parametrize(("stdin", "yes"), [(io.StringIO("n\n"), False), (Terminal("n\n"), True)])
def test_a_program_and_a_person_who_said_yes_are_not_asked(
    stdin: io.StringIO,
    yes: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    ask_first("delete session s?", yes=yes)
    assert capsys.readouterr().err == ""


def test_ctrl_c_at_the_question_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    # charmbracelet/gum#588: nothing told a no from Ctrl-C, for both exited 1.
    class Interrupted(Terminal):
        def readline(self, _size: int | None = -1, /) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        ask_first("delete session s?", yes=False)
