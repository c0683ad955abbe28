"""Dead letters as they are shown: as a table, as facts of JSON, and their bytes as text."""

from __future__ import annotations

import base64
from typing import Any, Final

from millstream.gateway.console.cleaning import escaped
from millstream.gateway.console.rendering import reason_text
from millstream.gateway.console.terminal import print_table
from millstream.gateway.console.time_parsing import time_text
from millstream.streams.history.dead_letters import Buried
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import rfc3339
from millstream.streams.wire.headers import DroppedHeaders

__all__ = [
    "batch_text",
    "dropped_text",
    "facts",
    "print_letters",
    "records_text",
    "short_text",
    "told_state",
    "whole_text",
]

_SHORT_BASE64: Final = 1_024  # a multiple of four: whole bytes


def facts(buried: Buried) -> dict[str, Any]:
    """Give a dead letter and what became of it as JSON has it."""
    redrive = buried.redrive
    dropped = buried.headers_dropped
    facts = {
        "source": str(buried.source),
        "dead_letter": str(buried.address),
        "time": rfc3339(buried.at_ms).decode(),
        "code": buried.reason.code,
        "message": buried.reason.message,
        "first_offset": buried.first_offset,
        "records": None if buried.first_offset is None else buried.records,
        "value_bytes": buried.value_bytes,
        "headers_dropped": list(dropped.names) if dropped.count else None,
        "headers_dropped_count": dropped.count or None,
        "state": buried.state,
        "came_of": None if buried.came_of is None else str(buried.came_of),
        "redriven_as": None if redrive is None else str(redrive.redriven_as),
        "mended": None if redrive is None else redrive.mended,
        "request_id": None if redrive is None else redrive.request_id,
        "status": buried.status,
        "dead_as": None if buried.dead_as is None else str(buried.dead_as),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def told_state(buried: Buried) -> str:
    """Say what became of a dead letter's record."""
    if buried.redrive is None:
        return "not put back"
    back = f"put back as {buried.redrive.redriven_as}" + (
        ", mended" if buried.redrive.mended else ""
    )
    match buried.state:
        case "ended":
            return f"{back}; its request {buried.redrive.request_id} is {buried.status}"
        case "dead_again":
            return f"{back}; it is a dead letter again: {buried.dead_as}"
        case _:
            return f"{back}; it has no result yet"


def print_letters(settings: Settings, found: list[Buried]) -> None:
    """Print a line for each dead letter."""
    rows = [
        (
            time_text(one.at_ms),
            str(one.source),
            "-" if one.value_bytes is None else str(one.value_bytes),
            told_state(one),
            reason_text(one.reason),
        )
        for one in found
    ]
    short = [[cell.replace(f"{settings.namespace}.", "") for cell in row] for row in rows]
    print_table(("buried (UTC)", "record", "bytes", "state", "reason"), short)


def batch_text(buried: Buried) -> str:
    """Say of a lost batch how many records it had, and which."""
    return f"a batch of {buried.records} records, offsets {_offsets_text(buried)}"


def records_text(buried: Buried) -> str:
    """Say how many records a lost batch had, and what to do."""
    if buried.records == 1:
        return "1, which was not read"
    return f"{buried.records}, offsets {_offsets_text(buried)}: send them again, in smaller batches"


def _offsets_text(buried: Buried) -> str:
    return f"{buried.first_offset} to {buried.source.offset}"


def dropped_text(dropped: DroppedHeaders) -> str:
    """Say which headers are not copied: `3 headers: authorization, cookie`."""
    number = f"{dropped.count} header" + ("s" if dropped.count > 1 else "")
    return f"{number}: {escaped(', '.join(dropped.names))}" if dropped.names else number


def short_text(encoded: str) -> str:
    """Give the beginning of what is no value, and how long it is."""
    told = whole_text(encoded[:_SHORT_BASE64])
    if len(encoded) <= _SHORT_BASE64:
        return told
    return f"{told}… ({len(base64.b64decode(encoded))} bytes; --json has all of them)"


def whole_text(encoded: str) -> str:
    """Give base64 as text; control characters and what is not UTF-8 are escaped."""
    return escaped(base64.b64decode(encoded).decode("utf-8", errors="backslashreplace"))
