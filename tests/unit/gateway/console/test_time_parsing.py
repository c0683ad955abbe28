"""Times and places as people write them."""

from __future__ import annotations

import time

import pytest
import typer

from millstream.gateway.console.time_parsing import (
    parse_span_s,
    parse_start,
    parse_time_ms,
    time_text,
)
from millstream.streams.bus.api import BEGINNING, NOW, FromOffset, FromTime


@pytest.mark.parametrize(
    ("text", "ago_ms"), [("90s", 90_000), ("10m", 600_000), ("1h", 3_600_000), ("7d", 604_800_000)]
)
def test_a_span_is_so_long_ago(text: str, ago_ms: int) -> None:
    now_ms = time.time() * 1000
    assert abs(now_ms - ago_ms - parse_time_ms(text)) < 5000


def test_iso_8601_with_an_offset_is_that_moment() -> None:
    assert parse_time_ms("2026-01-31T09:30:00Z") == 1_769_851_800_000
    assert parse_time_ms("2026-01-31T10:30:00.250+01:00") == 1_769_851_800_250


@pytest.mark.parametrize("text", ["yesterday", "", "1w", "1969-01-01T00:00:00Z", "-1h", "9" * 30])
def test_what_is_no_time_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_time_ms(text)


def test_a_start_is_a_word_an_offset_or_a_time() -> None:
    assert parse_start("now") is NOW
    assert parse_start("beginning") is BEGINNING
    assert parse_start("42") == FromOffset(42)
    assert parse_start("3:42") == FromOffset(42, 3)
    assert parse_start("2026-01-31T09:30:00Z") == FromTime(1_769_851_800_000)


def test_a_time_is_told_in_utc_to_the_millisecond() -> None:
    assert time_text(1_769_851_800_007) == "2026-01-31 09:30:00.007"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("8h", 28_800), ("7d", 604_800)]
)
def test_a_span_is_so_many_seconds(text: str, seconds: int) -> None:
    assert parse_span_s(text, "--ttl", most_s=604_800) == seconds


@pytest.mark.parametrize(
    "text", ["", "8 hours", "-1", "0", "8", "90", "0s", "8d", "1.5h", "9" * 12, "٨h"]
)
def test_what_is_no_span_or_too_long_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter) as raised:
        parse_span_s(text, "--ttl", most_s=604_800)
    assert raised.value.param_hint == "'--ttl'"
