"""When a provider says that it may be asked again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["retry_after_s"]


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Give the wait that an answer's headers ask for in seconds, `None` if they ask for none.

    `retry-after-ms` is OpenAI's and counts milliseconds. `Retry-After` is a number of seconds or a
    date (RFC 9110, section 10.2.3), which is taken from the answer's own `Date`, so that no clock
    of this machine has to be right. What cannot be read, or has passed, asks for nothing.
    """
    told_ms = _number(headers.get("retry-after-ms"))
    if told_ms is not None:
        return told_ms / 1000
    told = headers.get("retry-after")
    told_s = _number(told)
    if told_s is not None or told is None:
        return told_s
    then, now = _date(told), _date(headers.get("date"))
    if then is None:
        return None
    wait_s = (then - (now or datetime.now(UTC))).total_seconds()
    return wait_s if wait_s > 0 else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _date(text: str | None) -> datetime | None:
    try:
        then = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return then if then.tzinfo else then.replace(tzinfo=UTC)
