"""What the commands share by which a user controls requests that were accepted before."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from schemas.events import ControlCommand

__all__ = ["RequestOption", "SessionOption", "TenantOption", "UserOption", "user_command"]

UserOption = Annotated[str, typer.Option("--user", help="Whose it is.")]
TenantOption = Annotated[str, typer.Option("--tenant", help="The user's tenant.")]
RequestOption = Annotated[str | None, typer.Option("--request", help="One request, by its id.")]
SessionOption = Annotated[
    str | None, typer.Option("--session", help="A session: all of its requests.")
]


def user_command(
    command: Literal["cancel", "pause", "resume"],
    *,
    user: str,
    tenant: str,
    request_id: str | None,
    session: str | None,
) -> ControlCommand:
    """Make a command. Raises `typer.BadParameter` that says which option is wrong."""
    try:
        return ControlCommand(
            user_id=user,
            tenant=tenant,
            command=command,
            request_id=request_id,
            session_id=session,
            at_ms=time.time_ns() // 10**6,
        )
    except ValidationError as error:
        if (request_id is None) == (session is None):
            message = "name either --request or --session"
            raise typer.BadParameter(message) from error
        problem = error.errors()[0]
        raise typer.BadParameter(f"{problem['loc'][0]}: {problem['msg']}") from error
