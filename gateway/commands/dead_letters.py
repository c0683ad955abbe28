"""`millstream dead-letters`: see the records that could not be read, and put them back, once."""

from __future__ import annotations

import re
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from millstream.gateway.client_settings import settings_for_client
from millstream.gateway.commands.group import CommandGroup
from millstream.gateway.console.cleaning import escaped
from millstream.gateway.console.dead_letter_text import (
    batch_text,
    dropped_text,
    facts,
    print_letters,
    records_text,
    short_text,
    told_state,
    whole_text,
)
from millstream.gateway.console.rendering import one_line, reason_text
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import (
    print_data,
    print_json,
    progress_console,
)
from millstream.gateway.console.time_parsing import parse_time_ms, time_text
from millstream.gateway.console.topic_names import topic_named
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import Address
from millstream.schemas.dead_letters import (
    DEAD_LETTER_CODES,
    BatchLost,
    CannotRedrive,
    DeadLetter,
    DeadLetterNotFound,
)
from millstream.schemas.topics import COMMAND_TOPICS
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.bus.api import Unreadable
from millstream.streams.history.dead_letters import (
    Buried,
    DeadLetterQuery,
    dead_letters,
    find_dead_letter,
    read_letter,
    with_outcomes,
)
from millstream.streams.history.redrive import AS_IT_WAS, Mend, Redrive, Redriver
from millstream.streams.settings import Settings

__all__ = ["dead_letters_app"]

_LIMIT_MAX = 10_000
_ADDRESS = re.compile(r"(?P<topic>[\w.-]{1,249})-(?P<partition>\d{1,5})[-@](?P<offset>\d{1,18})")

dead_letters_app = typer.Typer(
    name="dead-letters",
    help="Records that could not be read: see them, and put them back, once.",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Codes = Annotated[
    list[str] | None,
    typer.Option("--code", help="Only with this reason; may be given several times."),
]
_Since = Annotated[
    str | None, typer.Option(help="From this time on: 90s, 10m, 1h, 7d ago, or ISO 8601.")
]
_Topic = Annotated[str | None, typer.Option(help="Only from this topic.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON Lines.")]
_Where = typer.Argument(
    metavar="ADDRESS", help="Where the record stood, TOPIC-PARTITION-OFFSET, or its dead letter."
)


@dead_letters_app.command("list")
def list_(
    *,
    code: _Codes = None,
    since: _Since = None,
    topic: _Topic = None,
    limit: Annotated[
        int, typer.Option(min=1, max=_LIMIT_MAX, help="Only the newest so many.")
    ] = 100,
    as_json: _Json = False,
) -> None:
    """Show which records could not be read, why, and what became of those put back.

    Exits 0 also where there are none.
    """
    settings = settings_for_client()
    found = run(_newest(settings, _query(settings, code, since, topic), limit))
    if as_json:
        for one in found:
            print_json(facts(one))
    elif found:
        print_letters(settings, found)
    if not found:
        progress_console().print("there are no such dead letters")


@dead_letters_app.command()
def show(address: Annotated[str, _Where], *, as_json: _Json = False) -> None:
    """Show one dead letter: reason, key, bytes, headers kept and dropped, and what became of it.

    In JSON bytes are in base64; as text, what is not UTF-8 is escaped.
    """
    settings = settings_for_client()
    buried, letter = run(_whole(settings, _address(address, settings)))
    if as_json:
        body = facts(buried) | {name: getattr(letter, name) for name in ("key", "value", "headers")}
        print_json(body)
        return
    value = "not kept or none" if letter.value is None else whole_text(letter.value)
    lines = [
        ("record", str(buried.source)),
        *([("records", records_text(buried))] if buried.first_offset is not None else ()),
        ("dead letter", f"{buried.address}, {time_text(buried.at_ms)} UTC"),
        ("reason", reason_text(buried.reason, whole=True)),
        ("state", told_state(buried)),
        ("key", "none or not kept" if letter.key is None else short_text(letter.key)),
        *((f"header {escaped(name)}", short_text(held or "")) for name, held in letter.headers),
        *(
            [("dropped", dropped_text(dropped))]
            if (dropped := buried.headers_dropped).count
            else ()
        ),
        ("value", value),
    ]
    for name, told in lines:
        print_data(f"{name:<12} {told}")


@dead_letters_app.command()
def redrive(
    address: Annotated[str | None, _Where] = None,
    *,
    value: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The mended value, instead of its own."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Another key instead of its own: the user's name.")
    ] = None,
    headers: Annotated[
        bool, typer.Option("--headers/--no-headers", help="With the headers that are kept.")
    ] = True,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="All with a --code, which must be given, that match --since and --topic."
        ),
    ] = False,
    code: _Codes = None,
    since: _Since = None,
    topic: _Topic = None,
    as_json: _Json = False,
) -> None:
    """Put a record back on its topic, as it was or mended; what was put back before is left alone.

    Exits 0 also if it had been put back before, and says what became of it. With --all, what cannot
    be put back, or would be a dead letter again, is told and the rest goes on; it exits 1 then.
    """
    if everything == (address is not None):
        message = "name one ADDRESS, or --all with a --code, for instance --all --code newer_schema"
        raise typer.BadParameter(message)
    settings = settings_for_client()
    if address is not None:
        if code or since or topic:
            message = "--code, --since and --topic go with --all"
            raise typer.BadParameter(message)
        mend = Mend(
            value=None if value is None else value.read_bytes(),
            key=None if key is None else key.encode(),
            keeps_headers=headers,
        )
        run(_redrive_one(settings, _address(address, settings), mend, as_json=as_json))
        return
    if value is not None or key is not None or not headers:
        message = "--value, --key and --no-headers mend one record: name its ADDRESS, not --all"
        raise typer.BadParameter(message)
    if not code:
        message = (
            "--all needs a --code, for instance --code newer_schema: what is dead for another "
            "reason stays so; `millstream dead-letters list` shows the reasons"
        )
        raise typer.BadParameter(message)
    query = _query(settings, code, since, topic)
    count = run(_redrive_all(settings, query, as_json=as_json))
    progress_console().print(_counted(count))
    if count.failed or count.batches:
        raise typer.Exit(ExitCode.FAILED)


async def _newest(settings: Settings, query: DeadLetterQuery, limit: int) -> list[Buried]:
    kept: deque[Buried] = deque(maxlen=limit)
    letters = dead_letters(settings, query, on_unreadable=_tell_unlisted)
    async with aclosing(letters):
        async for one in letters:
            kept.append(one)
    return await with_outcomes(settings, kept)


def _tell_unlisted(record: Unreadable) -> None:
    why = f"{record.error.code}: {one_line(str(record.error))}"
    progress_console().print(f"note: {record.address} cannot be read, so it is not listed: {why}")


async def _whole(settings: Settings, address: Address) -> tuple[Buried, DeadLetter]:
    (buried,) = await with_outcomes(settings, [await find_dead_letter(settings, address)])
    reader = PartitionReader(settings)
    try:
        await reader.start()
        return buried, await read_letter(reader, buried)
    finally:
        await reader.stop()


async def _redrive_one(settings: Settings, address: Address, mend: Mend, *, as_json: bool) -> None:
    buried = await find_dead_letter(settings, address)
    async with Redriver(settings) as redriver:
        done = await redriver.mend(buried, mend)
    (buried,) = await with_outcomes(settings, [buried])
    _tell(buried, done, as_json=as_json)
    if not done.first and mend != AS_IT_WAS:
        why = "what was given was not used, for the record had been put back before"
        if buried.dead_as is not None:
            why += f"; mend {buried.dead_as} instead, the dead letter that it became"
        progress_console().print(f"note: {why}")


@dataclass(slots=True)
class _Count:
    """What became of those that match: put back now, before, not at all, or a command.

    `batches` are dead letters of several records, of `lost` in all.
    """

    now: int = 0
    before: int = 0
    failed: int = 0
    commands: int = 0
    batches: int = 0
    lost: int = 0


def _counted(count: _Count) -> str:
    if count == _Count():
        return (
            "0 put back: there are no such dead letters; `millstream dead-letters list` shows all"
        )
    told = f"{count.now} put back"
    if count.failed:
        told += f", {count.failed} could not be: see above"
    if count.batches:
        told += (
            f"; {count.lost} records of batches that cannot be read ({count.batches}, see above) "
            "are not put back: send them again, in smaller batches"
        )
    return told


async def _redrive_all(settings: Settings, query: DeadLetterQuery, *, as_json: bool) -> _Count:
    count = _Count()
    async with (
        aclosing(dead_letters(settings, query)) as letters,
        Redriver(settings) as redriver,
    ):
        async for buried in letters:
            if buried.source.topic in {settings.topic(one.name) for one in COMMAND_TOPICS}:
                count.commands += 1
                progress_console().print(f"{buried.source} is a command: left, give it again")
                continue
            try:
                done = await redriver.redrive(buried, leave_unreadable=True)
            except BatchLost:
                count.batches += 1
                count.lost += buried.records
                progress_console().print(f"{buried.source} is {batch_text(buried)}: left")
                continue
            except (CannotRedrive, DeadLetterNotFound) as error:
                count.failed += 1
                progress_console().print(f"{buried.source} cannot be put back: {error}")
                continue
            if done.first:
                count.now += 1
                _tell(buried, done, as_json=as_json)
            else:
                count.before += 1
    return count


def _tell(buried: Buried, done: Redrive, *, as_json: bool) -> None:
    if done.unreadable is not None:
        progress_console().print(
            f"note: this program cannot read {buried.source} either "
            f"({done.unreadable.code}: {one_line(str(done.unreadable))}); unless the workers are "
            "newer, it will be a dead letter again"
        )
    if done.headers_dropped.count:
        progress_console().print(
            f"note: {buried.source} was put back without {dropped_text(done.headers_dropped)}"
        )
    if as_json:
        body = {**facts(buried), "redriven_as": str(done.redriven_as), "first": done.first}
        print_json(body)
    elif done.first:
        print_data(f"{buried.source} was put back as {done.redriven_as}")
    else:
        print_data(f"{buried.source}: nothing was done, for it was {told_state(buried)}")


def _query(
    settings: Settings, codes: list[str] | None, since: str | None, topic: str | None
) -> DeadLetterQuery:
    for code in codes or ():
        if code not in DEAD_LETTER_CODES:
            message = f"no record is dead for {code!r}: there are {', '.join(DEAD_LETTER_CODES)}"
            raise typer.BadParameter(message, param_hint="--code")
    return DeadLetterQuery(
        codes=frozenset(codes or ()),
        topic=None if topic is None else settings.topic(topic_named(topic, settings).name),
        since_ms=None if since is None else parse_time_ms(since),
    )


def _address(text: str, settings: Settings) -> Address:
    """Read `requests-2-7` or `requests-2@7`, with or without the namespace."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        message = f"{text!r} is no address: write TOPIC-PARTITION-OFFSET, for instance requests-2-7"
        raise typer.BadParameter(message)
    name = found["topic"].removeprefix(f"{settings.namespace}.")
    return Address(
        topic=settings.topic(name), partition=int(found["partition"]), offset=int(found["offset"])
    )
