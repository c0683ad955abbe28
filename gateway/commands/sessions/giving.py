"""Giving a command on sessions, and saying what became of it; asking a person first."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from shlex import quote
from typing import Any, Final, NoReturn

import typer

from millstream.gateway.client_settings import settings_for_client
from millstream.gateway.commands.sessions.options import opened
from millstream.gateway.commands.sessions.telling import due_text, facts, ttl_text
from millstream.gateway.console.asking import account_name, confirmed
from millstream.gateway.console.running import run_within
from millstream.gateway.console.terminal import print_data, print_json, progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.sessions.errors import SessionOutcomeUnknown
from millstream.streams.sessions.inputs import new_ulid
from millstream.streams.sessions.manager import SessionManager
from millstream.streams.sessions.outcomes import SessionOutcome

__all__ = ["TIMEOUT_S", "Give", "GivenCommand", "ask_first"]

TIMEOUT_S: Final = 30.0

_TELL_LIFE: Final = frozenset({"create", "update", "touch", "reopen"})
"""The commands that say or begin how long a session lives."""

Give = Callable[[SessionManager], Awaitable[SessionOutcome | int]]
"""Gives a command; gives the session as it left it, or how many sessions it was carried out on."""


class GivenCommand:
    """A command that is given, and what is said of what became of it: in words, or as JSON."""

    def __init__(
        self,
        verb: str,
        done: str,
        *,
        timeout_s: float,
        as_json: bool,
        why: str | None,
        command_id: str | None,
    ) -> None:
        self.asked: dict[str, Any] = {
            "by": account_name(),
            "why": why,
            "command_id": new_ulid() if command_id is None else command_id,
        }
        self._verb = verb
        self._done = done
        self._timeout_s = timeout_s
        self._as_json = as_json
        self._code: ExitCode | None = None

    def give(self, give: Give) -> NoReturn:
        """Have `give` give it within its time, tell what became of it, and exit."""
        settings = settings_for_client()

        async def main() -> ExitCode:
            async with opened(settings, self._timeout_s) as sessions:
                try:
                    outcome = await give(sessions)
                except SessionOutcomeUnknown:
                    if self._as_json:
                        self._print_late()
                    raise
                self._code = ExitCode.OK
                self._tell(outcome)
            return ExitCode.OK

        raise typer.Exit(run_within(self._timeout_s, main(), self._late))

    def _tell(self, outcome: SessionOutcome | int) -> None:
        if self._as_json:
            told = {"sessions": outcome} if isinstance(outcome, int) else facts(outcome)
            told["command_id"] = self.asked["command_id"]
            print_json({"command": self._verb, "outcome": "done", **told})
            return
        console = progress_console()
        if isinstance(outcome, int):
            console.print(f"{outcome} sessions: {self._done}")
            return
        if self._verb == "create":
            print_data(outcome.session_id)
        else:
            console.print(f"session {outcome.session_id}: {self._done}")
        if self._verb in _TELL_LIFE:
            console.print(f"it lives {ttl_text(outcome.ttl)}{due_text(outcome)}")

    def _late(self) -> ExitCode:
        if self._code is not None:
            return self._code  # only the clients have not closed
        if self._as_json:
            self._print_late()
        progress_console().print(
            f"nobody has answered within {self._timeout_s:g} s, so whether the {self._verb} is "
            "carried out is not known; does a worker run? See `millstream doctor`. Given again "
            f"with --command-id {quote(self.asked['command_id'])}, it has no second effect."
        )
        return ExitCode.TIMED_OUT

    def _print_late(self) -> None:
        print_json({"command": self._verb, "outcome": "late", **self.asked})


def ask_first(question: str, *, yes: bool) -> None:
    """Ask a person at the terminal; a program is not asked. Exits 1 where the answer is no."""
    if yes or not sys.stdin.isatty():
        return
    if not confirmed(question):
        progress_console().print("nothing was done")
        raise typer.Exit(ExitCode.FAILED)
