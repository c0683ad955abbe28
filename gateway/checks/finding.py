"""What a check of `doctor` gives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["SETUP", "Check", "Finding", "Level", "together"]


Level = Literal["ok", "note", "wrong"]

SETUP = "run `make setup`"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do, unless all is well."""

    name: str
    level: Level
    told: str
    remedy: str = ""


Check = Callable[[], Awaitable[tuple[Finding, ...]]]


def together(*checks: Check) -> Check:
    """Make one of checks that wait for services: each may wait for as long as a service hangs."""

    async def check() -> tuple[Finding, ...]:
        found = await asyncio.gather(*(one() for one in checks))
        return tuple(finding for findings in found for finding in findings)

    return check
