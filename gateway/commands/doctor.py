"""`millstream doctor`: say what is missing or misconfigured, and what to do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Annotated

import typer

from millstream.gateway.commands.user_roles import RIGHTS_OF, UserRole
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import print_data, print_json
from millstream.gateway.exits import ExitCode
from millstream.schemas.errors import Misconfigured

__all__ = ["doctor"]

_MARKS = {"ok": "✓", "note": "·", "wrong": "✗"}


def doctor(
    as_json: Annotated[  # noqa: FBT002  Typer makes a flag of it
        bool, typer.Option("--json", help="Print JSON Lines, a finding each.")
    ] = False,
    roles: Annotated[
        list[UserRole] | None,
        typer.Option(
            "--role",
            help="What this user is to be on Kafka: what it lacks for that is wrong, and of other "
            "roles nothing is told. May be given several times.",
        ),
    ] = None,
) -> None:
    """Look at everything that Millstream needs, and say what is wrong and what to do.

    Exits 1 if something is wrong; what is merely worth knowing (·) is not.
    """
    wrong = run(_examine(roles or (), as_json=as_json))
    if wrong:
        raise typer.Exit(ExitCode.FAILED)


async def _examine(roles: Collection[UserRole], *, as_json: bool) -> int:
    from millstream.gateway.checks.catalogue import checks_of  # noqa: PLC0415  the packages it looks at are slow to import

    wrong = 0
    wanted = dict.fromkeys(one for role in roles for one in RIGHTS_OF[role])
    for check in checks_of(tuple(wanted)):
        try:
            findings = await check()
        except Misconfigured:
            if not wrong:
                raise
            continue  # the check of the settings has told it
        for finding in findings:
            wrong += finding.level == "wrong"
            if as_json:
                print_json(asdict(finding))
                continue
            print_data(f"{_MARKS[finding.level]} {finding.name}: {finding.told}")
            if finding.remedy:
                print_data(f"    → {finding.remedy}")
    return wrong
