"""What a check of `doctor` gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["SETUP", "Check", "Finding", "Level"]


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
