"""`millstream sessions name` and `restore`: name a saved state, and go back to one."""

from __future__ import annotations

from shlex import quote
from typing import Annotated

import typer

from millstream.gateway.commands.sessions.giving import TIMEOUT_S, GivenCommand
from millstream.gateway.commands.sessions.options import (
    CommandIdOption,
    JsonOption,
    SessionArgument,
    TenantOption,
    TimeoutOption,
    UserOption,
    WhyOption,
    sessions_app,
)
from millstream.schemas.base import DEFAULT_TENANT

__all__: list[str] = []

_SEE = "`millstream sessions checkpoints` shows them"


@sessions_app.command()
def name(
    session: SessionArgument,
    turn: Annotated[
        str | None, typer.Argument(metavar="TURN", help="Whose checkpoint is meant; or --turn.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="What it is to be called; or --name."),
    ] = None,
    *,
    turn_option: Annotated[
        int | None, typer.Option("--turn", min=1, help="As TURN.", metavar="TURN")
    ] = None,
    name_option: Annotated[
        str | None, typer.Option("--name", help="As NAME.", metavar="NAME")
    ] = None,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    why: WhyOption = None,
    command_id: CommandIdOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Give a session's checkpoint a name, by which `restore` finds it.

    For instance `sessions name SESSION 3 good --user ada`; `checkpoints` shows the turns.
    """
    given = [one for one in (turn, name) if one is not None]
    meant_turn = turn_option
    if meant_turn is None and given:
        meant_turn = _turn(given.pop(0), "as in `sessions name SESSION 3 good`")
    called = name_option
    if called is None and given:
        called = given.pop(0)
    if meant_turn is None or called is None or given:
        message = f"give one turn and one name, as in `sessions name SESSION 3 good`; {_SEE}"
        raise typer.BadParameter(message)
    done = f"its checkpoint of turn {meant_turn} is called {called}"
    command = GivenCommand(
        "name", done, timeout_s=timeout_s, as_json=as_json, why=why, command_id=command_id
    )
    command.give(
        lambda to: to.name_checkpoint(
            user, session, meant_turn, called, tenant=tenant, **command.asked
        )
    )


@sessions_app.command()
def restore(
    session: SessionArgument,
    turn: Annotated[
        str | None, typer.Argument(metavar="TURN", help="The turn to go back to; or --turn.")
    ] = None,
    *,
    turn_option: Annotated[
        int | None, typer.Option("--turn", min=1, help="As TURN.", metavar="TURN")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The checkpoint to go back to.")] = None,
    user: UserOption,
    tenant: TenantOption = DEFAULT_TENANT,
    why: WhyOption = None,
    command_id: CommandIdOption = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Go back to a checkpoint: the next run begins from it, and later turns are left.

    For instance `sessions restore SESSION 3 --user ada`, or `--name good` in place of the turn.
    Exits 3 while a run of the session is on or waits, 8 if there is no such checkpoint.
    """
    ways = [one for one in (turn, turn_option, name) if one is not None]
    if len(ways) != 1:
        message = f"give a turn or --name, as in `sessions restore SESSION 3`; {_SEE}"
        raise typer.BadParameter(message)
    meant_turn = turn_option if turn is None else _turn(turn, f"or --name {quote(turn)}")
    back = f"turn {meant_turn}" if name is None else name
    done = f"goes on from {back}"
    command = GivenCommand(
        "restore", done, timeout_s=timeout_s, as_json=as_json, why=why, command_id=command_id
    )
    command.give(
        lambda to: to.restore(
            user, session, turn=meant_turn, name=name, tenant=tenant, **command.asked
        )
    )


def _turn(text: str, instead: str) -> int:
    """Read a turn that was given by its position. Raises `typer.BadParameter`.

    `instead` says what to write in its place.
    """
    if text.isascii() and text.isdecimal() and (turn := int(text)) >= 1:
        return turn
    message = f"{text!r} is no turn: give a number from 1 on, {instead}; {_SEE}"
    raise typer.BadParameter(message, param_hint="TURN")
