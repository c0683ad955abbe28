"""When a provider says that it may be asked again, in headers or in fields of an error object."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

__all__ = ["duration_s", "retry_after_s", "told_wait_s"]

# Of Anthropic, then of OpenAI and those who copy it (Groq, Together, Azure): what is left, and
# when there is more, each of requests, tokens and so on.
_LIMITS: Final = re.compile(r"(?:anthropic|x)-ratelimit-(?:.*-)?remaining(?:-.*)?", re.IGNORECASE)
_PART: Final = re.compile(
    r"(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)(?![a-z])"
)
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_SINCE_1970_S: Final = 10**9
_FIELDS: Final = ("retry_after", "retry_after_seconds", "retry_after_s", "retryAfter", "retryDelay")
_FIELDS_MS: Final = ("retry_after_ms", "retryAfterMs")
_INSIDE: Final = ("error", "metadata", "details", "parameters")
_DEPTH_MAX: Final = 4
_DETAILS_MAX: Final = 16


def retry_after_s(headers: Mapping[str, str], *, limited: bool = False) -> float | None:
    """Give the wait that an answer's headers ask for in seconds, `None` if they ask for none.

    `retry-after-ms` is OpenAI's and counts milliseconds. `Retry-After` is a number of seconds or a
    date (RFC 9110, section 10.2.3), which is taken from the answer's own `Date`, so that no clock
    of this machine has to be right. `limited`: the answer says that a limit was passed; where it
    says no more, the limits of which nothing remains say when there is more of them. What cannot
    be read, or has passed, asks for nothing.
    """
    told_ms = _number(headers.get("retry-after-ms"))
    if told_ms is not None:
        return told_ms / 1000
    told = headers.get("retry-after")
    told_s = _number(told)
    if told_s is not None:
        return told_s
    if told is not None:
        return _until(_date(told), headers)
    return max(_resets(headers), default=None) if limited else None


def told_wait_s(body: object) -> float | None:
    """Give the wait in seconds that the fields of an error object ask for, `None` if none does.

    Google's `RetryInfo` among its details (`retryDelay`, "36s"); `retry_after` and the like, of
    gateways; headers that OpenRouter repeats in the error's metadata.
    """
    return max(_waits_in(body, _DEPTH_MAX), default=None)


def duration_s(text: str) -> float | None:
    """Read a duration such as `1m26.4s`, `250ms` or `26 seconds`, in seconds."""
    parts = _PART.findall(text.lower())
    if not parts:
        return None
    return sum(
        float(number) * (0.001 if unit.startswith(("ms", "milli")) else _UNITS_S[unit[0]])
        for number, unit in parts
    )


def _waits_in(body: object, depth: int) -> Iterator[float]:
    if depth == 0:
        return
    if isinstance(body, list):
        for each in body[:_DETAILS_MAX]:
            yield from _waits_in(each, depth - 1)
    if not isinstance(body, Mapping):
        return
    yield from _waits_of(body)
    for name in _INSIDE:
        yield from _waits_in(body.get(name), depth - 1)
    if isinstance(headers := body.get("headers"), Mapping):
        small = {str(key).lower(): str(value) for key, value in headers.items()}
        if (wait := retry_after_s(small, limited=True)) is not None:
            yield wait


def _waits_of(fields: Mapping[str, Any]) -> Iterator[float]:
    for names, unit_s in ((_FIELDS, 1.0), (_FIELDS_MS, 0.001)):
        for name in names:
            told = fields.get(name)
            wait = _number(told) if isinstance(told, str | int | float) else None
            if wait is None and isinstance(told, str):
                wait = duration_s(told)
            if wait is not None:
                yield wait * unit_s


def _resets(headers: Mapping[str, str]) -> Iterator[float]:
    for name in headers:
        if _LIMITS.fullmatch(name) and _number(headers.get(name)) == 0:
            told = headers.get(name.lower().replace("remaining", "reset"))
            wait = _reset(told, headers)
            if wait is not None:
                yield wait


def _reset(told: str | None, headers: Mapping[str, str]) -> float | None:
    """Read a reset: a moment (Anthropic), a duration (OpenAI), seconds, or seconds since 1970."""
    number = _number(told)
    if number is None:
        then = _date(told)
        return duration_s(told or "") if then is None else _until(then, headers)
    if number < _SINCE_1970_S:
        return number
    then_s = number / 1000 if number > _SINCE_1970_S * 1000 else number
    try:
        return _until(datetime.fromtimestamp(then_s, UTC), headers)
    except (ValueError, OverflowError, OSError):
        return None


def _until(then: datetime | None, headers: Mapping[str, str]) -> float | None:
    if then is None:
        return None
    wait_s = (then - (_date(headers.get("date")) or datetime.now(UTC))).total_seconds()
    return wait_s if wait_s > 0 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value or "")
    except (ValueError, OverflowError):
        return 0.0 if value == 0 else None
    return number if math.isfinite(number) and number >= 0 else None


def _date(text: str | None) -> datetime | None:
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            then = read(text or "")
        except ValueError:
            continue
        return then if then.tzinfo else then.replace(tzinfo=UTC)
    return None
