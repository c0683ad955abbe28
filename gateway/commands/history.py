"""`millstream history`: replay from the topics what was asked, decided, said and spent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

import typer

from millstream.gateway.client_settings import settings_for_client
from millstream.gateway.console.rendering import entry_json
from millstream.gateway.console.replay.timeline import timeline
from millstream.gateway.console.replay.waiting import Waiting
from millstream.gateway.console.running import run
from millstream.gateway.console.tenant_option import tenant_of
from millstream.gateway.console.terminal import Lines, progress_console, showable_json
from millstream.gateway.console.time_parsing import parse_time_ms
from millstream.gateway.console.topic_names import topic_named
from millstream.streams.bus.api import EventFilter
from millstream.streams.bus.record_log import Entry
from millstream.streams.history.replay import HISTORY_TOPICS, HistoryQuery, history_batches
from millstream.streams.settings import Settings

__all__ = ["history", "print_history"]

_LIMIT_MAX = 1_000_000


def history(
    *,
    since: Annotated[
        str | None, typer.Option(help="From this time on: 90s, 10m, 1h, 7d ago, or ISO 8601.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Up to this time, written likewise.")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    session: Annotated[str | None, typer.Option(help="Only this session.")] = None,
    request: Annotated[str | None, typer.Option(help="Only this request.")] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="Only this topic; may be given several times.")
    ] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition.")] = None,
    offset_from: Annotated[
        int | None, typer.Option("--offset", min=0, help="From this offset on.")
    ] = None,
    offset_until: Annotated[
        int | None, typer.Option("--offset-until", min=0, help="Up to before this offset.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=_LIMIT_MAX, help="Only the newest so many records."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON Lines, a record each.")
    ] = False,
) -> None:
    """Replay what the topics hold, oldest first, in the order of the broker's time (UTC).

    As text, each line has time, place, user, request, attempt and session, and tokens that were
    written in a row make one line. In JSON a record that cannot be read has `unreadable` with
    `code` and `message` instead of `event`. Exits 0 also where nothing matches.
    """
    since_ms = None if since is None else parse_time_ms(since)
    until_ms = None if until is None else parse_time_ms(until)
    if since_ms is not None and until_ms is not None and until_ms <= since_ms:
        message = f"{until!r} is not after --since {since!r}: nothing lies between the two"
        raise typer.BadParameter(message, param_hint="--until")
    if offset_from is not None and offset_until is not None and offset_until <= offset_from:
        message = (
            f"{offset_until} is not after --offset {offset_from}: nothing lies between the two"
        )
        raise typer.BadParameter(message, param_hint="--offset-until")
    settings = settings_for_client()
    query = HistoryQuery(
        topics=tuple(topic_named(name, settings) for name in topic) if topic else HISTORY_TOPICS,
        wanted=EventFilter(
            user_id=user, tenant=tenant_of(user, tenant), session_id=session, request_id=request
        ),
        since_ms=since_ms,
        until_ms=until_ms,
        partition=partition,
        offset_from=offset_from,
        offset_until=offset_until,
        limit=limit,
    )
    found = run(print_history(settings, query, as_json=as_json))
    if not found:
        progress_console().print("nothing matches")


async def print_history(settings: Settings, query: HistoryQuery, *, as_json: bool = False) -> int:
    """Replay to standard output; gives the number of lines."""
    waiting = Waiting("reading history")
    with waiting, Lines(before=waiting.clear) as lines:
        async with aclosing(history_batches(settings, query, waiting.told)) as batches:
            if as_json:
                async for entries in batches:
                    for entry in entries:
                        lines.add(showable_json(entry_json(entry)))
                    lines.write()
            else:
                each = _each(batches, lines)
                told = timeline(each, settings.namespace, partitions=settings.partitions)
                async for line in told:
                    lines.add(line)
    return lines.count


async def _each(batches: AsyncIterator[list[Entry]], lines: Lines) -> AsyncIterator[Entry]:
    async for entries in batches:
        for entry in entries:
            yield entry
        lines.write()
