"""`millstream sessions create`, `touch`, `close`, `reopen` and those that change what there is."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, NoReturn

import typer

from millstream.gateway.client_settings import settings_for_client
from millstream.gateway.commands.sessions.options import (
    JsonOption,
    SessionArgument,
    TenantOption,
    TimeoutOption,
    UserOption,
    WhyOption,
    YesOption,
    opened,
    sessions_app,
)
from millstream.gateway.commands.sessions.telling import facts, ttl_text
from millstream.gateway.console.asking import account_name, metadata_of
from millstream.gateway.console.running import run_within
from millstream.gateway.console.terminal import print_data, print_json, progress_console
from millstream.gateway.console.time_parsing import parse_span_s
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import DEFAULT_TENANT
from millstream.schemas.sessions.commands import TTL_IDLE_S_MAX, TTL_S_MAX, SessionTtl
from millstream.streams.sessions.inputs import new_ulid
from millstream.streams.sessions.manager import SessionManager
from millstream.streams.sessions.outcomes import SessionOutcome

__all__: list[str] = []

TIMEOUT_S: Final = 30.0
ALL_TIMEOUT_S: Final = 300.0

Give = Callable[[SessionManager], Awaitable[SessionOutcome | int]]
"""Gives a command; gives the session as it left it, or how many sessions it was carried out on."""

_AllOption = Annotated[bool, typer.Option("--all", help="All sessions that the user has now.")]
_TtlOption = Annotated[
    str | None,
    typer.Option(metavar="SPAN", help="How long it lives without being used: 90s, 10m, 8h, 7d."),
]
_TtlTotalOption = Annotated[
    str | None, typer.Option(metavar="SPAN", help="How long it lives in all.")
]
_MetadataOption = Annotated[
    list[str] | None, typer.Option("--metadata", help="NAME=VALUE; may be given several times.")
]
_OneArgument = Annotated[
    str | None, typer.Argument(metavar="SESSION", help="The session's id, or --all.")
]


@sessions_app.command()
def create(
    session: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="Its id; else it gets one.")
    ] = None,
    *,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    ttl: _TtlOption = None,
    ttl_total: _TtlTotalOption = None,
    metadata: _MetadataOption = None,
    why: WhyOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Create a session, and print its id. Exits 3 if the user has one of that id."""
    pairs = metadata_of(metadata or ())
    lives = _ttl_of(ttl, ttl_total)
    command = _Command("create", "created", timeout_s=timeout_s, as_json=as_json, why=why)

    async def give(sessions: SessionManager) -> SessionOutcome:
        return await sessions.create(
            user, session, tenant=tenant, ttl=lives, metadata=pairs, **command.asked
        )

    command.give(give)


@sessions_app.command()
def update(
    session: SessionArgument,
    *,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    ttl: _TtlOption = None,
    ttl_total: _TtlTotalOption = None,
    metadata: _MetadataOption = None,
    why: WhyOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Give a session another time to live or other metadata, each in place of the whole old one.

    Metadata that is not named again is gone, as is a limit that is not given where the other one
    is. Without any --metadata, or any --ttl and --ttl-total, those stay as they are.
    """
    pairs = metadata_of(metadata) if metadata else None
    lives = _ttl_of(ttl, ttl_total)
    if pairs is None and lives is None:
        message = "there is nothing to update: give --metadata, --ttl or --ttl-total"
        raise typer.BadParameter(message)
    command = _Command("update", "updated", timeout_s=timeout_s, as_json=as_json, why=why)
    command.give(
        lambda to: to.update(
            user, session, tenant=tenant, ttl=lives, metadata=pairs, **command.asked
        )
    )


@sessions_app.command()
def touch(
    session: SessionArgument,
    *,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Count a session as used now: its time to live begins anew."""
    command = _Command("touch", "used now", timeout_s=timeout_s, as_json=as_json)
    command.give(lambda to: to.touch(user, session, tenant=tenant, **command.asked))


@sessions_app.command()
def close(
    session: _OneArgument = None,
    *,
    everything: _AllOption = False,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    drain: Annotated[bool, typer.Option(help="What waits of it still runs.")] = False,
    why: WhyOption = None,
    yes: YesOption = False,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Close a session: the run that is on ends, what waits is rejected, as are later requests.

    `reopen` opens it again. With --all it asks first where a person is at the terminal.
    """
    command = _Command("close", "closed", timeout_s=timeout_s, as_json=as_json, why=why)
    name = _one_or_all(session, everything=everything)
    if name is not None:
        more: dict[str, Any] = {"tenant": tenant, "drain": drain, **command.asked}
        command.give(lambda to: to.close(user, name, **more))
    _ask_first(f"close all sessions of user {user}?", yes=yes)
    command.give(
        lambda to: to.close_all(
            user, tenant=tenant, drain=drain, timeout_s=timeout_s, **command.asked
        )
    )


@sessions_app.command()
def reopen(
    session: SessionArgument,
    *,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    why: WhyOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Open a closed or expired session again, with its conversation."""
    command = _Command("reopen", "open", timeout_s=timeout_s, as_json=as_json, why=why)
    command.give(lambda to: to.reopen(user, session, tenant=tenant, **command.asked))


@sessions_app.command()
def expire(
    session: SessionArgument,
    *,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    why: WhyOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """End a session's time to live now. Exits 3 while a run of it is on or waits."""
    command = _Command("expire", "expired", timeout_s=timeout_s, as_json=as_json, why=why)
    command.give(lambda to: to.expire(user, session, tenant=tenant, **command.asked))


@sessions_app.command()
def delete(
    session: _OneArgument = None,
    *,
    everything: _AllOption = False,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    why: WhyOption = None,
    yes: YesOption = False,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Delete a session for good: what runs or waits of it is cancelled, its id is not used again.

    It asks first where a person is at the terminal.
    """
    command = _Command("delete", "deleted", timeout_s=timeout_s, as_json=as_json, why=why)
    name = _one_or_all(session, everything=everything)
    what = "all sessions" if name is None else f"session {name}"
    _ask_first(f"delete {what} of user {user}, for good?", yes=yes)
    if name is not None:
        command.give(lambda to: to.delete(user, name, tenant=tenant, **command.asked))
    command.give(
        lambda to: to.delete_all(user, tenant=tenant, timeout_s=timeout_s, **command.asked)
    )


@sessions_app.command()
def name(
    session: SessionArgument,
    turn: Annotated[int, typer.Argument(metavar="TURN", min=1, help="Whose checkpoint is meant.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    *,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    why: WhyOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Give a session's checkpoint a name, by which `restore` finds it."""
    done = f"its checkpoint of turn {turn} is called {name}"
    command = _Command("name", done, timeout_s=timeout_s, as_json=as_json, why=why)
    command.give(
        lambda to: to.name_checkpoint(user, session, turn, name, tenant=tenant, **command.asked)
    )


@sessions_app.command()
def restore(
    session: SessionArgument,
    *,
    turn: Annotated[int | None, typer.Option(min=1, help="The turn to go back to.")] = None,
    name: Annotated[str | None, typer.Option(help="The checkpoint to go back to.")] = None,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    why: WhyOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Go back to a checkpoint: the next run begins from it, and later turns are left.

    Exits 3 while a run of the session is on or waits, 8 if there is no such checkpoint.
    """
    if (turn is None) == (name is None):
        message = "give --turn or --name; `millstream sessions checkpoints` shows them"
        raise typer.BadParameter(message)
    back = f"turn {turn}" if name is None else name
    done = f"goes on from {back}"
    command = _Command("restore", done, timeout_s=timeout_s, as_json=as_json, why=why)
    command.give(
        lambda to: to.restore(user, session, turn=turn, name=name, tenant=tenant, **command.asked)
    )


class _Command:
    """A command that is given, and what is said of what became of it: in words, or as JSON."""

    def __init__(
        self, verb: str, done: str, *, timeout_s: float, as_json: bool, why: str | None = None
    ) -> None:
        self.asked: dict[str, Any] = {
            "by": account_name(),
            "why": why,
            "command_id": new_ulid(),
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
                outcome = await give(sessions)
                self._code = ExitCode.OK
                self._tell(outcome)
            return ExitCode.OK

        raise typer.Exit(run_within(self._timeout_s, main(), self._late))

    def _tell(self, outcome: SessionOutcome | int) -> None:
        if self._as_json:
            told = {"sessions": outcome} if isinstance(outcome, int) else facts(outcome)
            print_json({"command": self._verb, "outcome": "done", **told})
            return
        console = progress_console()
        if isinstance(outcome, int):
            console.print(f"{outcome} sessions: {self._done}")
            return
        if self._verb == "create":
            print_data(outcome.session_id)
            console.print(f"it lives {ttl_text(outcome.ttl)}")
        else:
            console.print(f"session {outcome.session_id}: {self._done}")

    def _late(self) -> ExitCode:
        if self._code is not None:
            return self._code  # only the clients have not closed
        if self._as_json:
            print_json({"command": self._verb, "outcome": "late", **self.asked})
        progress_console().print(
            f"nobody has answered within {self._timeout_s:g} s, so whether the {self._verb} is "
            "carried out is not known; does a worker run? See `millstream doctor`."
        )
        return ExitCode.TIMED_OUT


def _ttl_of(idle: str | None, total: str | None) -> SessionTtl | None:
    if idle is None and total is None:
        return None
    return SessionTtl(
        idle_s=None if idle is None else parse_span_s(idle, "--ttl", most_s=TTL_IDLE_S_MAX),
        total_s=None if total is None else parse_span_s(total, "--ttl-total", most_s=TTL_S_MAX),
    )


def _one_or_all(session: str | None, *, everything: bool) -> str | None:
    if everything == (session is not None):
        message = "name one SESSION, or --all for all that the user has"
        raise typer.BadParameter(message)
    return session


def _ask_first(question: str, *, yes: bool) -> None:
    """Ask a person at the terminal; a program is not asked."""
    if yes or not sys.stdin.isatty():
        return
    if not typer.confirm(question, err=True):
        progress_console().print("nothing was done")
        raise typer.Exit(ExitCode.OK)
