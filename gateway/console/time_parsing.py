"""Points in time and places in topics, as people write them on a command line."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import typer

from millstream.streams.bus.api import BEGINNING, NOW, FromOffset, FromTime, Start

__all__ = ["parse_span_s", "parse_start", "parse_time_ms", "time_text"]

_AGO = re.compile(r"(\d{1,9})(s|m|h|d)")
_SPAN = re.compile(r"([0-9]{1,9})(s|m|h|d)?")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_OFFSET = re.compile(r"(?:(\d{1,5}):)?(\d{1,18})")


def parse_time_ms(text: str) -> int:
    """Read `90s`, `10m`, `1h` or `7d` (so long ago), or ISO 8601 (local time without an offset).

    Gives milliseconds since the epoch. Raises `typer.BadParameter`, which is wrong usage.
    """
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return max(0, time.time_ns() // 1_000_000 - int(ago[1]) * _UNIT_MS[ago[2]])
    try:
        moment = datetime.fromisoformat(text)
        at_ms = round(moment.timestamp() * 1000)
    except (ValueError, OverflowError, OSError) as error:
        message = f"{text!r} is no time: write 90s, 10m, 1h, 7d or 2026-01-31T09:30:00Z"
        raise typer.BadParameter(message) from error
    if at_ms < 0:
        message = f"{text!r} is before 1970"
        raise typer.BadParameter(message)
    return at_ms


def parse_span_s(text: str, option: str, *, most_s: int) -> int:
    """Read `8h`, `7d`, `10m` or `90s`. Gives seconds, 1 to `most_s`.

    A number alone is refused: whoever means 8 hours and writes 8 would get 8 seconds.

    Raises `typer.BadParameter`, which names the option.
    """
    hint = f"'{option}'"
    span = _SPAN.fullmatch(text)
    if span is None:
        message = f"{text!r} is no span of time: write 90s, 10m, 8h or 7d"
        raise typer.BadParameter(message, param_hint=hint)
    if span[2] is None:
        number = span[1]
        message = f"{text!r} has no unit: write {number}s, {number}m, {number}h or {number}d"
        raise typer.BadParameter(message, param_hint=hint)
    seconds = int(span[1]) * _UNIT_MS[span[2]] // 1000
    if not 1 <= seconds <= most_s:
        message = f"{text!r} is not between 1s and {most_s // 86_400}d"
        raise typer.BadParameter(message, param_hint=hint)
    return seconds


def parse_start(text: str) -> Start:
    """Read `now`, `beginning`, `OFFSET`, `PARTITION:OFFSET` or a time.

    Raises `typer.BadParameter`.
    """
    if text == "now":
        return NOW
    if text == "beginning":
        return BEGINNING
    offset = _OFFSET.fullmatch(text)
    if offset is not None:
        return FromOffset(int(offset[2]), None if offset[1] is None else int(offset[1]))
    try:
        return FromTime(parse_time_ms(text))
    except typer.BadParameter as error:
        message = f"{error.message}; or now, beginning, OFFSET, PARTITION:OFFSET"
        raise typer.BadParameter(message) from error


def time_text(at_ms: int) -> str:
    """Give a time of UTC to the millisecond, as people read it beside others of the same day."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{at_ms % 1000:03d}"
