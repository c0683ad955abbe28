"""`millstream drain`: tell a worker to hand over what it has and end."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from millstream.gateway.client_settings import open_bus, settings_for_client
from millstream.gateway.commands.control.control import JsonOption
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import print_json, progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.topics import LANES
from millstream.streams.bus.api import EventBus
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import name_at

__all__ = ["drain"]

_LANES_READ_MAX = 10_000


def drain(
    worker: Annotated[str, typer.Argument(help="The worker's name, as it tells when it starts.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Tell a worker to hand over what it has and end, as SIGTERM does, from anywhere.

    What it can end within its grace it ends; the other workers take up the rest. Exits 8 if it
    owns no partition, and names the workers that do.
    """
    raise typer.Exit(run(_drain(worker, settings_for_client(), as_json=as_json)))


async def _drain(worker: str, settings: Settings, *, as_json: bool) -> ExitCode:
    tell = progress_console().print
    facts = {"command": "drain", "worker": worker}
    async with open_bus(settings) as bus:
        owners = await _owners(bus)
        mine = sorted(partition for partition, owner in owners.items() if owner == worker)
        if not mine:
            owning = sorted(set(owners.values()))
            known = ", ".join(owning) or "none"
            tell(f"no partition is owned by worker {worker}; those that own one: {known}")
            if as_json:
                print_json({**facts, "outcome": "unknown", "workers": owning})
            return ExitCode.NOTHING_THERE
        for partition in mine:  # any would do, as long as it has not moved meanwhile
            await bus.publish(
                ControlCommand(
                    user_id=name_at(partition, settings.partitions),
                    command="drain",
                    worker=worker,
                    at_ms=time.time_ns() // 10**6,
                )
            )
    if as_json:
        print_json({**facts, "outcome": "done", "partitions": mine})
        return ExitCode.OK
    partitions = ", ".join(map(str, mine))
    tell(f"worker {worker} is told to hand over partitions {partitions} and end")
    return ExitCode.OK


async def _owners(bus: EventBus) -> dict[int, str]:
    """Give who opened the lane of each partition last, where the executor runs."""
    owners: dict[int, str] = {}
    for delivery in await bus.history(topics=[LANES], limit=_LANES_READ_MAX):
        if isinstance(delivery.event, LaneOpened):
            owners[delivery.event.partition] = delivery.event.worker
    return owners
