"""`millstream sessions list`, `show`, `messages`, `checkpoints` and `stats`: change nothing."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from millstream.agents.sessions.manager import (
    PAGE_SESSIONS_MAX,
    SessionFilter,
    SessionInfo,
    SessionOrder,
)
from millstream.gateway.commands.sessions.options import (
    JsonOption,
    SessionArgument,
    TenantOption,
    UserOption,
    read,
    sessions_app,
)
from millstream.gateway.commands.sessions.telling import (
    facts,
    none_text,
    print_checkpoints,
    print_conversation,
    print_pairs,
    print_sessions,
    session_pairs,
    stats_pairs,
)
from millstream.gateway.console.asking import metadata_of
from millstream.gateway.console.terminal import print_json, progress_console
from millstream.gateway.console.time_parsing import parse_time_ms
from millstream.schemas.base import DEFAULT_TENANT
from millstream.schemas.sessions.errors import SessionUnknown
from millstream.streams.sessions.manager import SessionManager

__all__: list[str] = []

_LIMIT_MAX = 100_000

_ListedState = Literal["open", "closed", "expired"]

_Times = "90s, 10m, 1h, 7d ago, or ISO 8601"


@sessions_app.command("list")
def list_(
    *,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    state: Annotated[
        _ListedState | None, typer.Option(help="Only open, closed or expired ones.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Only those of this agent.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", help="Only with this NAME=VALUE.")
    ] = None,
    since: Annotated[str | None, typer.Option(help=f"Only used from then on: {_Times}.")] = None,
    until: Annotated[str | None, typer.Option(help=f"Only used before: {_Times}.")] = None,
    oldest: Annotated[
        bool, typer.Option("--oldest-first", help="Begin with those that were created first.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=_LIMIT_MAX, help="So many at most.")] = 100,
    after: Annotated[str | None, typer.Option(help="Go on behind an earlier list.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a user's sessions, the newest first.

    It is of one user: there is no list of everybody's, and `stats` without --user counts those.
    Exits 0 also where there are none, and standard error says what there is instead. Where there
    are more, it says how to go on.
    """
    wanted = SessionFilter(
        state=state,
        template=template,
        metadata=metadata_of(metadata or ()),
        used_from_ms=None if since is None else parse_time_ms(since),
        used_before_ms=None if until is None else parse_time_ms(until),
    )
    order: SessionOrder = "oldest" if oldest else "newest"

    async def main(sessions: SessionManager) -> None:
        found: list[SessionInfo] = []
        following = after
        while len(found) < limit:
            page = await sessions.list(
                user,
                tenant=tenant,
                limit=min(limit - len(found), PAGE_SESSIONS_MAX),
                after=following,
                order=order,
                wanted=wanted,
            )
            found += page.sessions
            following = page.after
            if following is None:
                break
        if as_json:
            for one in found:
                print_json(facts(one))
        elif found:
            print_sessions(found)
        if not found and after is not None:
            progress_console().print("there are no more")
        elif not found:
            others = await sessions.list(user, tenant=tenant)
            progress_console().print(none_text(user, wanted, others.sessions))
        if following is not None:
            progress_console().print(f"there may be more: --after {following}")

    read(main)


@sessions_app.command()
def show(
    session: SessionArgument,
    *,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: JsonOption = False,
) -> None:
    """Show what is known of one session. Exits 8 if the user has no such session."""

    async def main(sessions: SessionManager) -> None:
        one = await sessions.get(user, session, tenant=tenant)
        if one is None:
            raise SessionUnknown.of(user, session)
        if as_json:
            print_json(facts(one))
        else:
            print_pairs(session_pairs(one))

    read(main)


@sessions_app.command()
def messages(
    session: SessionArgument,
    *,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: JsonOption = False,
) -> None:
    """Print a session's conversation, with tool calls, as the next run finds it.

    Of a turn that was tried several times it is the attempt that counted. Turns that the template's
    memory has left out are not in it. Exits 8 if the user has no such session.
    """

    async def main(sessions: SessionManager) -> None:
        found = await sessions.messages(user, session, tenant=tenant)
        if as_json:
            for one in found:
                print_json(facts(one))
        else:
            print_conversation(found)
        if not found:
            progress_console().print(f"nothing was said in session {session} yet")

    read(main, needs_log=True)


@sessions_app.command()
def checkpoints(
    session: SessionArgument,
    *,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: JsonOption = False,
) -> None:
    """Show the saved states of a session that are still kept, the newest first.

    `restore` goes back to one. Exits 8 if the user has no such session.
    """

    async def main(sessions: SessionManager) -> None:
        found = await sessions.checkpoints(user, session, tenant=tenant)
        if as_json:
            for one in found:
                print_json(facts(one))
        elif found:
            print_checkpoints(found)
        if not found:
            progress_console().print(f"session {session} has no checkpoint yet")

    read(main)


@sessions_app.command()
def stats(
    *,
    user: Annotated[str | None, typer.Option("--user", help="Else everybody's, in all.")] = None,
    tenant: TenantOption = DEFAULT_TENANT,
    as_json: JsonOption = False,
) -> None:
    """Count sessions by state, and add up their turns, bytes and costs."""

    async def main(sessions: SessionManager) -> None:
        found = await sessions.stats(user, tenant=tenant)
        if as_json:
            print_json(facts(found))
        else:
            print_pairs(stats_pairs(found))

    read(main)
