"""`millstream demo`: what `make demo` runs."""

from __future__ import annotations

from millstream.gateway.client_settings import local_settings
from millstream.gateway.commands.up import SecureOption, refuse_named
from millstream.gateway.commands.worker import ROLES
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import print_text, progress_console
from millstream.gateway.demo.clock import StartClock
from millstream.gateway.demo.show import heading, show
from millstream.gateway.installation import HOME, command
from millstream.gateway.processes.platform import platform
from millstream.streams.settings import Settings

__all__ = ["demo"]

_POLICY = HOME / "docs" / "examples" / "demo-policy.yaml"


def demo(*, secure: SecureOption = None) -> None:
    """Show the whole path on this machine: start everything, ask, answer, account, replay, stop.

    Needs nothing that runs, and leaves nothing running; its data stays for the next time.
    """
    clock = StartClock()
    settings = local_settings()
    refuse_named(settings, secure=secure)
    if settings.policy_file is None:
        settings = settings.model_copy(update={"policy_file": _POLICY})
    run(_demo(settings, clock, secure=secure))


async def _demo(settings: Settings, clock: StartClock, *, secure: bool | None) -> None:
    heading(1, "Apache Kafka, Redis and a worker start")
    tell = progress_console().print
    async with platform(settings, roles=frozenset(ROLES), tell=tell, secure=secure) as running:
        tell(f"✓ the worker serves, its log: {running.worker.log}")
        await running.while_all_runs(show(running, clock))
    print_text(f"\nEverything is stopped; the data stays. To go on: {command()} up\n")
