"""A provider says in many ways when it may be asked again."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.agents.models.retry_after import duration_s, retry_after_s, told_wait_s

DATE = "Sat, 28 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-7"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "?", "retry-after": "7"}, 7.0),
        ({"retry-after": "Sat, 28 Nov 2026 10:01:00 GMT", "date": DATE}, 60.0),
        ({"retry-after": "Sat, 28 Nov 2026 09:59:00 GMT", "date": DATE}, None),
        ({"retry-after": "Fri, 01 Jan 1999 00:00:00 GMT"}, None),
    ],
)
def test_the_wait_is_read_from_the_headers(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s(headers) == wait_s


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}, 62.5),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1m2s"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "30"}, 30.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795860060000", "date": DATE}, 60.0),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-28T10:00:20Z",
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2026-11-28T10:00:40Z",
                "date": DATE,
            },
            40.0,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "soon"}, None),
        ({"x-ratelimit-remaining": "0"}, None),
    ],
)
def test_a_limit_of_which_nothing_remains_says_when_there_is_more(
    headers: dict[str, str], wait_s: float | None
) -> None:
    assert retry_after_s(headers, limited=True) == wait_s
    assert retry_after_s(headers) is None


@pytest.mark.parametrize(
    ("body", "wait_s"),
    [
        ({"error": {"details": [{"@type": "google.rpc.RetryInfo", "retryDelay": "36.5s"}]}}, 36.5),
        ({"error": {"metadata": {"headers": {"Retry-After": "12"}}}}, 12.0),
        ({"error": {"retry_after": 7}}, 7.0),
        ({"retry_after_ms": 250}, 0.25),
        ({"retry_after": True}, None),
        ({"retry_after": -1}, None),
        ({"retry_after": 10**400}, None),
        ("try later", None),
    ],
)
def test_the_wait_is_read_from_an_error_object(body: Any, wait_s: float | None) -> None:
    assert told_wait_s(body) == wait_s


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("1m26.4s", 86.4),
        ("250ms", 0.25),
        ("26 seconds", 26.0),
        ("114h18m0s", 411_480.0),
        ("x", None),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, wait_s: float | None) -> None:
    assert duration_s(text) == wait_s
