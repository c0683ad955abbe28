"""`millstream tail`: follow a topic."""

from __future__ import annotations

from typing import Annotated

import typer

from millstream.gateway.client_settings import open_bus, settings_for_client
from millstream.gateway.console.rendering import entry_json, entry_line
from millstream.gateway.console.running import run
from millstream.gateway.console.tenant_option import tenant_of
from millstream.gateway.console.terminal import print_data, print_json_line
from millstream.gateway.console.time_parsing import parse_start
from millstream.gateway.console.topic_names import topic_named
from millstream.schemas.topics import TopicSpec
from millstream.streams.bus.api import EventFilter, Start

__all__ = ["tail"]


def tail(
    topic: Annotated[str, typer.Argument(help="A topic's name without its namespace: results.")],
    from_: Annotated[
        str,
        typer.Option(
            "--from", help="now, beginning, OFFSET, PARTITION:OFFSET, or a time: 10m, ISO 8601."
        ),
    ] = "now",
    user: Annotated[str | None, typer.Option(help="Only this user's records.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's records.")] = None,
    as_json: Annotated[  # noqa: FBT002  Typer makes a flag of it
        bool, typer.Option("--json", help="Print JSON Lines.")
    ] = False,
) -> None:
    """Follow a topic until Ctrl-C: committed records only, in the order of each partition.

    A record that cannot be read is shown in its place, with the reason; in JSON it has `unreadable`
    with `code` and `message` instead of `event`.
    """
    start = parse_start(from_)
    settings = settings_for_client()
    spec = topic_named(topic, settings)
    wanted = EventFilter(user_id=user, tenant=tenant_of(user, tenant))
    run(_tail(spec, start, wanted, as_json=as_json))


async def _tail(spec: TopicSpec, start: Start, wanted: EventFilter, *, as_json: bool) -> None:
    settings = settings_for_client()
    async with open_bus(settings) as bus, bus.tail_records((spec,), start, wanted) as entries:
        async for entry in entries:
            if as_json:
                print_json_line(entry_json(entry))
            else:
                print_data(entry_line(entry, settings.namespace))
