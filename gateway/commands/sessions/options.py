"""What the commands of sessions take, and the manager that each of them is given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from millstream.gateway.client_settings import open_bus, settings_for_client
from millstream.gateway.commands.group import CommandGroup
from millstream.gateway.console.running import run_within
from millstream.gateway.console.terminal import progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.sessions.errors import CheckpointUnknown, SessionUnknown
from millstream.streams.sessions.manager import SessionManager
from millstream.streams.settings import Settings

if TYPE_CHECKING:
    from millstream.streams.sessions.redis import RedisSessionStore

__all__ = [
    "CommandIdOption",
    "JsonOption",
    "SessionArgument",
    "TenantOption",
    "TimeoutOption",
    "UserOption",
    "WhyOption",
    "YesOption",
    "opened",
    "read",
    "sessions_app",
    "store_of",
]

READ_TIMEOUT_S: Final = 30.0

sessions_app = typer.Typer(
    name="sessions",
    help="Sessions of users: create, read, change and end them.",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
)

SessionArgument = Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")]
UserOption = Annotated[str, typer.Option("--user", help="Whose it is.")]
TenantOption = Annotated[str, typer.Option("--tenant", help="The user's tenant.")]
WhyOption = Annotated[
    str | None, typer.Option("--why", help="For what reason: it stands with the change.")
]
CommandIdOption = Annotated[
    str | None,
    typer.Option(
        "--command-id",
        metavar="ID",
        help="An id of yours: given again under it, the command has no second effect.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Seconds to wait until it is decided, in all.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON Lines.")]


@asynccontextmanager
async def opened(settings: Settings, timeout_s: float) -> AsyncIterator[SessionManager]:
    """Connect a manager that can change sessions to Kafka and Redis."""
    store = store_of(settings)
    try:
        async with (
            open_bus(settings) as bus,
            SessionManager(bus, store, timeout_s=timeout_s) as sessions,
        ):
            yield sessions
    finally:
        await store.close()


def read(main: Callable[[SessionManager], Awaitable[None]], *, needs_log: bool = False) -> None:
    """Have `main` read sessions; Kafka is asked only if it `needs_log`."""
    settings = settings_for_client()

    async def reading() -> ExitCode:
        store = store_of(settings)
        bus = open_bus(settings)
        try:
            sessions = SessionManager(bus, store)
            async with AsyncExitStack() as stack:
                if needs_log:
                    await stack.enter_async_context(bus)
                try:
                    await main(sessions)
                except (SessionUnknown, CheckpointUnknown):
                    await _tell_what_lacks(sessions)
                    raise
                await _tell_what_lacks(sessions)
        finally:
            await store.close()
        return ExitCode.OK

    code = run_within(READ_TIMEOUT_S, reading(), _late)
    if code:
        raise typer.Exit(code)


async def _tell_what_lacks(sessions: SessionManager) -> None:
    """Say what the view lacks; or that it does not answer, so that the log was asked instead."""
    try:
        lacks = await sessions.lacks()
    except ServiceUnavailable as error:
        lacks = str(error)
    if lacks is not None:
        progress_console().print(lacks)


def store_of(settings: Settings) -> RedisSessionStore:
    """Make the view that commands read; close it."""
    from millstream.streams.sessions.redis import RedisSessionStore  # noqa: PLC0415  slow to import

    return RedisSessionStore(settings)


def _late() -> ExitCode:
    progress_console().print(
        f"nothing answered within {READ_TIMEOUT_S:g} s. See `millstream doctor`."
    )
    return ExitCode.TIMED_OUT
