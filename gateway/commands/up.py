"""`millstream up`: Kafka, Redis and a worker, in the foreground."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from millstream.gateway.client_settings import local_settings
from millstream.gateway.commands.worker import AppOption, parse_roles, with_app
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import progress_console
from millstream.gateway.exits import ExitCode, Stopped
from millstream.gateway.installation import command
from millstream.gateway.processes.platform import Platform, platform
from millstream.schemas.errors import Misconfigured
from millstream.schemas.topics import REQUESTS, RESULTS, catalogue
from millstream.streams.broker.rights.users import USERS, User
from millstream.streams.settings import Role, Settings

__all__ = ["SecureOption", "refuse_named", "secure_lines", "up"]

_CLUSTER_SIZES = (1, 3)

SecureOption = Annotated[
    bool | None,
    typer.Option(
        "--secure/--no-secure",
        help="Kafka with TLS, users and rights; default: as the data has it, else without.",
    ),
]


def refuse_named(settings: Settings, *, secure: bool | None) -> None:
    """Raise `Misconfigured` where users are wanted for a Kafka that is not started here."""
    if secure and "kafka" in settings.model_fields_set:
        message = (
            "--secure is for the Kafka that is started here, and the settings name one: unset "
            "MILLSTREAM_KAFKA and MILLSTREAM_KAFKA_CONFIG, or leave --secure out"
        )
        raise Misconfigured(message)


def up(
    brokers: Annotated[
        int | None, typer.Option(help="Kafka nodes, 1 or 3; default: as the data has, else 1.")
    ] = None,
    roles: Annotated[str, typer.Option(help="What the worker does, comma-separated.")] = (
        "lanes,views"
    ),
    policy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Permissions, limits and prices, in YAML."),
    ] = None,
    app: AppOption = None,
    *,
    with_worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Whether a worker is started too.")
    ] = True,
    secure: SecureOption = None,
) -> None:
    """Start Kafka, Redis and a worker, and run until Ctrl-C stops them all.

    Services that MILLSTREAM_KAFKA and MILLSTREAM_REDIS_URL name are used and not started. Other
    commands find what runs here by themselves.
    """
    if brokers is not None and brokers not in _CLUSTER_SIZES:
        message = "a cluster has 1 node or 3"
        raise typer.BadParameter(message, param_hint="--brokers")
    # What was typed is told before what is set.
    wanted = parse_roles(roles)
    settings = with_app(local_settings(), app)
    refuse_named(settings, secure=secure)
    if policy is not None:
        settings = settings.model_copy(update={"policy_file": policy.absolute()})
    try:
        run(_up(settings, brokers, wanted, with_worker=with_worker, secure=secure))
    except Stopped as stopped:
        # To be stopped is how it is meant to end.
        raise typer.Exit(ExitCode.OK) from stopped


async def _up(
    settings: Settings,
    brokers: int | None,
    roles: frozenset[Role],
    *,
    with_worker: bool,
    secure: bool | None,
) -> None:
    console = progress_console()
    async with platform(
        settings,
        roles=roles,
        tell=console.print,
        brokers=brokers,
        with_worker=with_worker,
        secure=secure,
    ) as running:
        _announce(running, console)
        keeping = running.worker.keep() if with_worker else asyncio.Event().wait()
        await running.while_services_run(keeping)


def _announce(running: Platform, console: Console) -> None:
    settings = running.settings
    topics = ", ".join(spec.name for spec in catalogue(settings.chain_cuts))
    requests, results = settings.topic(REQUESTS.name), settings.topic(RESULTS.name)
    where = [f"Kafka    {settings.kafka}", f"topics   {settings.namespace}.*: {topics}"]
    if running.has_worker:
        where.append(f"metrics  {running.worker.metrics_url}")
        where.append(f"log      {running.worker.log}")
    else:
        where.append("no worker runs: start one in another terminal, by `millstream worker`")
    panel = Panel(Text("\n".join(where)), title="Millstream runs", expand=False)
    console.print(panel, soft_wrap=False)
    # Not in a frame: these are to be copied.
    if running.secure is not None:
        told = secure_lines(running.secure)
        console.print(f"{told}\nCtrl-C stops everything; the data stays.", soft_wrap=True)
        return
    record = '{"user_id": "ada", "input": "Name three planets."}'
    console.print(
        "In another terminal:\n"
        f'  {command()} submit "Name three planets." --user ada\n'
        f"  echo '{record}' | kcat -P -b {settings.kafka} -t {requests} -k ada\n"
        f"  kcat -C -b {settings.kafka} -t {results}\n"
        f"  {command()} history --user ada\n"
        "Ctrl-C stops everything; the data stays."
    )


_AS: tuple[tuple[User, str], ...] = (
    ("client", 'submit "Name three planets." --user ada'),
    ("auditor", "history --user ada"),
    ("operator", "doctor"),
    ("worker", "worker"),
)


def secure_lines(secure: Path) -> str:
    """Say how each command of another terminal connects: as a user, by that user's file."""
    config = shlex.quote(f"{secure}/USER/client.properties").replace("USER", "{user}")
    lines = (
        f"  MILLSTREAM_KAFKA_CONFIG={config.format(user=user)} {command()} {words}"
        for user, words in _AS
    )
    others = ", ".join(user for user in USERS if user not in dict(_AS))
    return "\n".join(
        (
            "In another terminal, each as the user whose work it is:",
            *lines,
            f"  Programs of your own: {others}; kafka-*.sh --command-config takes these files too.",
        )
    )
