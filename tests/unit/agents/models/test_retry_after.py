"""A provider says in three ways when it may be asked again."""

from __future__ import annotations

import pytest

from millstream.agents.models.retry_after import retry_after_s

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
