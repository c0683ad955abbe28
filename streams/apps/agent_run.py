"""What became of a request that an app ran in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from millstream.schemas.events import AgentResult, AgentToken, CostRecorded, Decision
from millstream.schemas.steps import AgentStep

__all__ = ["AgentRun"]

_SHOWN_CHARS_MAX: Final = 60


@dataclass(frozen=True, slots=True, repr=False)
class AgentRun:
    """What became of one request.

    Attributes:
        result: Its one result.
        tokens: The pieces of its answer, of all attempts, as they were written.
        steps: Calls of models and tools, retries and what else the template's `steps` names.
        costs: A record for each model call of an attempt that may cost.
        decision: What the layers said.
    """

    result: AgentResult
    tokens: tuple[AgentToken, ...] = ()
    steps: tuple[AgentStep, ...] = ()
    costs: tuple[CostRecorded, ...] = ()
    decision: Decision | None = None

    def __repr__(self) -> str:
        """Say how it ended, in a line: tests show it."""
        told = self.reason or repr(self.output[:_SHOWN_CHARS_MAX])
        return f"AgentRun({self.status}, {told}, {len(self.steps)} steps)"

    @property
    def status(self) -> str:
        """How it ended: `completed`, `failed`, `rejected`, …."""
        return self.result.status

    @property
    def output(self) -> str:
        """The answer's text, empty where there is none."""
        return self.result.output or ""

    @property
    def structured(self) -> dict[str, Any] | None:
        """The answer that follows the template's schema."""
        return self.result.structured

    @property
    def reason(self) -> str:
        """Why it did not complete, as `code: words`; empty where it did."""
        reason = self.result.reason
        return "" if reason is None else f"{reason.code}: {reason.message}"

    @property
    def tools_called(self) -> tuple[str, ...]:
        """The names of the tools that were called, in order, in all attempts."""
        return tuple(step.name or "" for step in self.steps if step.kind == "tool_start")

    @property
    def cost_micros(self) -> int:
        """What it cost, in millionths of a US dollar."""
        return self.result.cost_micros
