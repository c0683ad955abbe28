"""`millstream sessions create`, `touch`, `close`, `reopen` and those that change what there is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from millstream.gateway.commands.sessions.giving import TIMEOUT_S, GivenCommand, ask_first
from millstream.gateway.commands.sessions.options import (
    CommandIdOption,
    JsonOption,
    SessionArgument,
    TenantOption,
    TimeoutOption,
    UserOption,
    WhyOption,
    YesOption,
    sessions_app,
)
from millstream.gateway.console.asking import metadata_of
from millstream.gateway.console.time_parsing import parse_span_s
from millstream.schemas.base import DEFAULT_TENANT
from millstream.schemas.sessions.commands import TTL_IDLE_S_MAX, TTL_S_MAX, SessionTtl
from millstream.streams.sessions.inputs import new_ulid

__all__: list[str] = []

_AllOption = Annotated[bool, typer.Option("--all", help="All sessions that the user has now.")]
_TtlOption = Annotated[
    str | None,
    typer.Option(
        metavar="SPAN",
        help="How long it lives without being used: 90s, 10m, 8h, 7d. A unit is needed.",
    ),
]
_TtlTotalOption = Annotated[
    str | None,
    typer.Option(metavar="SPAN", help="How long it lives in all, used or not: 90s, 10m, 8h, 7d."),
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
    command_id: CommandIdOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Create a session, and print its id. Exits 3 if the user has one of that id.

    Standard error says how long it lives, and until when. A limit that is not given is the
    policy's.
    """
    pairs = metadata_of(metadata or ())
    lives = _ttl_of(ttl, ttl_total)
    command = GivenCommand(
        "create", "created", timeout_s=timeout_s, as_json=as_json, why=why, command_id=command_id
    )
    # Under an id of the caller's it is to be the same session each time.
    wanted = new_ulid() if session is None and command_id is None else session
    command.give(
        lambda to: to.create(
            user, wanted, tenant=tenant, ttl=lives, metadata=pairs, **command.asked
        )
    )


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
    command_id: CommandIdOption = None,
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
    command = GivenCommand(
        "update", "updated", timeout_s=timeout_s, as_json=as_json, why=why, command_id=command_id
    )
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
    why: WhyOption = None,
    command_id: CommandIdOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Count a session as used now: its time to live begins anew."""
    command = GivenCommand(
        "touch", "used now", timeout_s=timeout_s, as_json=as_json, why=why, command_id=command_id
    )
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
    command_id: CommandIdOption = None,
    yes: YesOption = False,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Close a session: the run that is on ends, what waits is rejected, as are later requests.

    Closed again without --drain, what still waits is rejected.
    `reopen` opens it again. With --all it asks first where a person is at the terminal, and exits 1
    if the answer is no. A program is not asked.
    """
    command = GivenCommand(
        "close", "closed", timeout_s=timeout_s, as_json=as_json, why=why, command_id=command_id
    )
    name = _one_or_all(session, everything=everything)
    if name is not None:
        more: dict[str, Any] = {"tenant": tenant, "drain": drain, **command.asked}
        command.give(lambda to: to.close(user, name, **more))
    ask_first(f"close all sessions of user {user}?", yes=yes)
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
    command_id: CommandIdOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Open a closed or expired session again, with its conversation."""
    command = GivenCommand(
        "reopen", "open", timeout_s=timeout_s, as_json=as_json, why=why, command_id=command_id
    )
    command.give(lambda to: to.reopen(user, session, tenant=tenant, **command.asked))


@sessions_app.command()
def expire(
    session: SessionArgument,
    *,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    why: WhyOption = None,
    command_id: CommandIdOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """End a session's time to live now. Exits 3 while a run of it is on or waits."""
    command = GivenCommand(
        "expire", "expired", timeout_s=timeout_s, as_json=as_json, why=why, command_id=command_id
    )
    command.give(lambda to: to.expire(user, session, tenant=tenant, **command.asked))


@sessions_app.command()
def delete(
    session: _OneArgument = None,
    *,
    everything: _AllOption = False,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    why: WhyOption = None,
    command_id: CommandIdOption = None,
    yes: YesOption = False,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Delete a session for good: what runs or waits of it is cancelled, its id is not used again.

    It asks first where a person is at the terminal, and exits 1 if the answer is no. A program,
    whose standard input is no terminal, is not asked.
    """
    command = GivenCommand(
        "delete", "deleted", timeout_s=timeout_s, as_json=as_json, why=why, command_id=command_id
    )
    name = _one_or_all(session, everything=everything)
    what = "all sessions" if name is None else f"session {name}"
    ask_first(f"delete {what} of user {user}, for good?", yes=yes)
    if name is not None:
        command.give(lambda to: to.delete(user, name, tenant=tenant, **command.asked))
    command.give(
        lambda to: to.delete_all(user, tenant=tenant, timeout_s=timeout_s, **command.asked)
    )


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
