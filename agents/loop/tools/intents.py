"""A call with an effect that is about to be made: what is known of it if no answer comes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self, cast

from millstream.agents.sessions.text import well_formed
from millstream.agents.tools import Effect
from millstream.schemas.journal.errors import JournalMismatch
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.steps import ARGUMENTS_BYTES_MAX

__all__ = ["Intent", "arguments_text", "naming_calls"]

# Of a message that holds more than arguments, and is cut itself.
_ARGUMENTS_SHOWN_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Intent:
    """A call of a tool with an effect, from before it is made until its answer is kept.

    Attributes:
        call_id: The call's id, unique in its run.
        tool: The tool's name.
        effect: What the tool declared as the call was made.
        key: The `Caller.idempotency_key` that the call was given.
        arguments: The call's arguments as JSON text, of at most 8,192 bytes.
        at_ms: When it was made, in milliseconds since the epoch; `None`: not known.
        until_ms: When its time is over, as `at_ms`; `None`: it has no limit of its own.
    """

    call_id: str
    tool: str
    effect: Effect
    key: str | None = None
    arguments: str = "{}"
    at_ms: int | None = None
    until_ms: int | None = None

    @classmethod
    def recorded(cls, step: JournalStep) -> Self:
        """Give the call that a run's journal tells of."""
        return cls(
            call_id=step.call_id or "",
            tool=step.name or "",
            effect=cast("Effect", step.effect or "ask_human"),
            key=step.key,
            arguments=step.arguments or "{}",
            at_ms=step.at_ms,
            until_ms=step.until_ms,
        )

    @property
    def named(self) -> str:
        """Which call it is, when it was made, and its arguments, cut."""
        return f"{self.tool} ({self.call_id}), {self.told}"

    @property
    def told(self) -> str:
        """When it was made, in words, and its arguments, cut."""
        shown = self.arguments
        if len(shown) > _ARGUMENTS_SHOWN_MAX:
            shown = shown[: _ARGUMENTS_SHOWN_MAX - 1] + "…"
        when = "called" if self.at_ms is None else f"called at {_time(self.at_ms)}"
        return f"{when} with {shown}"


@contextmanager
def naming_calls(intents: Mapping[str, Intent]) -> Iterator[None]:
    """Have a `JournalMismatch` name the calls that were begun, and may have done what they do."""
    try:
        yield
    except JournalMismatch as mismatch:
        if not intents:
            raise
        begun = "; ".join(one.named for one in intents.values())
        message = f"{mismatch}; find out what became of {begun}"
        raise JournalMismatch(message) from mismatch


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """Give a call's arguments as JSON text, as far as it can be written, of at most 8,192 bytes."""
    text = well_formed(json.dumps(arguments, ensure_ascii=False, default=str))
    return text.encode()[:ARGUMENTS_BYTES_MAX].decode(errors="ignore")


def _time(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        # A clock that says so is no reason to say nothing of the call.
        return f"{at_ms} ms"
