"""What an executor counts of the runs that it made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from millstream.schemas.base import CallUsage

__all__ = ["NAMES_MAX", "OTHER", "CallFigures", "CountTool", "Statistics"]

NAMES_MAX: Final = 200
"""Names that are counted by themselves: templates and tools may be very many."""

OTHER: Final = "other"
"""What counts under a further name."""

CountTool = Callable[[str, str, float], None]
"""Takes a tool's name, the outcome of its call (`ok` or `error`), and how many seconds it took."""


@dataclass(slots=True)
class CallFigures:
    """Calls that ended, how long they took in all, and how many of them failed."""

    calls: int = 0
    seconds: float = 0.0
    failed: int = 0

    def add(self, seconds: float, *, failed: bool) -> None:
        """Count a call."""
        self.calls += 1
        self.seconds += seconds
        self.failed += failed


@dataclass(slots=True)
class Statistics:
    """Counts of one executor, since it was made. Its loop writes, others may read.

    Attributes:
        running: Attempts that are under way.
        attempts: Attempts that ended, by what became of them: a result's status, `suspended` for
            one that is to be begun anew, `cut_off` for one that was cancelled from outside.
        attempt_seconds: How long these took in all.
        model_calls: The calls of models, also those that tools make.
        tools: The calls of tools by name, of the first 200 names; those after count as `other`.
    """

    running: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    attempt_seconds: float = 0.0
    model_calls: int = 0
    tools: dict[str, CallFigures] = field(default_factory=dict)
    count_tool: CountTool | None = None

    def end_attempt(self, became: str, seconds: float, calls: Sequence[CallUsage]) -> None:
        """Count an attempt that is over, and its calls of models."""
        self.model_calls += sum(one.calls for one in calls)
        self.attempts[became] += 1
        self.attempt_seconds += seconds

    def end_tool(self, name: str, seconds: float, *, failed: bool) -> None:
        """Count a tool's call that is over."""
        if name not in self.tools and len(self.tools) >= NAMES_MAX:
            name = OTHER
        self.tools.setdefault(name, CallFigures()).add(seconds, failed=failed)
        if self.count_tool is not None:
            self.count_tool(name, "error" if failed else "ok", seconds)

    def as_dict(self) -> Mapping[str, object]:
        """Give all of it as plain values, as of now."""
        return {
            "running": self.running,
            "attempts": dict(self.attempts),
            "attempt_seconds": self.attempt_seconds,
            "model_calls": self.model_calls,
            "tools": {name: _plain(one) for name, one in tuple(self.tools.items())},
        }


def _plain(figures: CallFigures) -> dict[str, float]:
    return {
        "calls": figures.calls,
        "seconds": figures.seconds,
        "failed": figures.failed,
    }
