"""Makes records as a lane gets them."""

from __future__ import annotations

import json
from typing import Any

from millstream.streams.wire.records import InputRecord

Headers = tuple[tuple[str, bytes | None], ...]


def record(
    value: dict[str, Any] | bytes | None,
    *,
    key: bytes | None = b"ada",
    headers: Headers = (),
    offset: int = 7,
    partition: int = 2,
) -> InputRecord:
    """Make a record as a lane gets it: at `requests-<partition>-<offset>`, stamped 5000."""
    return InputRecord(
        topic="requests",
        partition=partition,
        offset=offset,
        timestamp=5000,
        key=key,
        value=json.dumps(value).encode() if isinstance(value, dict) else value,
        headers=headers,
    )
