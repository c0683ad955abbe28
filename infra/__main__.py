"""Command line of the dev launcher: `python -m millstream.infra up | rotate | fetch | …`."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from millstream.infra.errors import InfraError, NotReady
from millstream.infra.hold import remove
from millstream.infra.kafka.jars import read_lock
from millstream.infra.paths import LOCK_FILE, cache_folder, data_folder
from millstream.infra.terminal import console

__all__ = ["app", "main"]

_UNAVAILABLE = 6
_INTERRUPTED = 130

app = typer.Typer(
    help="Real Kafka and Redis on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_Data = Annotated[
    Path,
    typer.Option("--data", help="Folder of the services' data.", default_factory=data_folder),
]


@app.command()
def up(
    brokers: Annotated[
        int | None, typer.Option(help="Kafka nodes, 1 or 3; default: as the data has, else 1.")
    ] = None,
    *,
    data: _Data,
    secure: Annotated[
        bool | None,
        typer.Option(
            "--secure/--no-secure",
            help="TLS, passwords and rights; default: as the data has, else none.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON when ready, on a terminal too.")
    ] = False,
    until_eof: Annotated[
        bool, typer.Option("--until-eof", help="Also stop at the end of standard input.")
    ] = False,
) -> None:
    """Start Kafka and Redis, and run until Ctrl-C.

    MILLSTREAM_KAFKA and MILLSTREAM_REDIS_URL name services to use instead.
    """
    from millstream.infra.up import run  # noqa: PLC0415  a download needs neither Kafka nor Redis clients

    if brokers not in {None, 1, 3}:
        message = "a cluster has 1 node or 3"
        raise typer.BadParameter(message, param_hint="--brokers")
    asyncio.run(
        run(
            data.resolve(),
            brokers,
            secure=secure,
            as_json=as_json,
            until_eof=until_eof,
            console=console(),
        )
    )


@app.command()
def rotate(
    data: _Data,
    *,
    passwords: Annotated[
        bool, typer.Option("--passwords", help="New passwords for the roles' users too.")
    ] = False,
) -> None:
    """Give the brokers of a running `up --secure` new certificates, without a restart.

    Programs that were told of a role's client.properties have to read it again for a new password.
    """
    from millstream.infra.rotate import rotate as run  # noqa: PLC0415  as above

    told = asyncio.run(run(data.resolve(), with_passwords=passwords))
    console().print(f"new certificates: {', '.join(told.nodes)}")
    if told.users:
        console().print(f"new passwords: {', '.join(told.users)}")


@app.command()
def fetch() -> None:
    """Bring Kafka's jars into the cache; needs no network when they are there."""
    from millstream.infra.kafka.fetch import fetch as fetch_jars  # noqa: PLC0415  slow to import, seldom needed

    jars, cache = read_lock(LOCK_FILE), cache_folder()
    try:
        fetched = fetch_jars(jars, cache, console())
    except KeyboardInterrupt:
        console().print("interrupted: what was fetched is kept")
        # Not an ordinary exit: that would wait for downloads that hang in a socket.
        os._exit(_INTERRUPTED)
    console().print(f"Kafka's {len(jars)} jars are in {cache}, {fetched} of them new")


@app.command("lock-jars")
def lock_jars() -> None:
    """Resolve Kafka's jars anew and pin them; for a new version of Kafka."""
    from millstream.infra.kafka.fetch import lock_jars as pin  # noqa: PLC0415  slow to import, seldom needed

    console().print(f"{len(pin(LOCK_FILE, cache_folder(), console()))} jars pinned in {LOCK_FILE}")


@app.command()
def clean(data: _Data) -> None:
    """Delete the services' data, unless a launcher runs on it."""
    removed = remove(data.resolve())
    console().print(f"{data} is removed" if removed else f"{data} does not exist: nothing to do")


def main() -> None:
    """Run the command line; exits 0, 1 for a failure told on standard error, 2 for misuse.

    6 is for a service that does not answer, as with `millstream`.
    """
    try:
        app()
    except (InfraError, OSError) as error:
        console().print("error:", style="bold red", end=" ")
        console().print(str(error))
        sys.exit(_UNAVAILABLE if isinstance(error, NotReady) else 1)


if __name__ == "__main__":
    main()
