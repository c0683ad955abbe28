"""A layer of the chain: a pure question, an answer, and state that is a fold of committed events.

`admit` reads state and never changes it; `fold` changes state and decides nothing. The lane folds
each event that it writes, and after a restart folds the committed ones again: so the state that
decides is the same, live and restored, and a record processed again changes no counter.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

from schemas.base import Event
from schemas.errors import Rejected
from schemas.events import AgentResult, ResolvedRequest


@dataclass(frozen=True, slots=True)
class MiddlewareContext:
    """What a layer may look at.

    `now_ms` is the broker's time of the request, `model` the name of the model the run would use,
    `output_tokens_max` the most it may write.
    """

    request: ResolvedRequest
    now_ms: int
    model: str
    output_tokens_max: int


@dataclass(frozen=True, slots=True)
class MiddlewareResult:
    """A layer's answer: go on (perhaps with money reserved), or a rejection with its reason."""

    rejection: Rejected | None = None
    reserved_micros: int = 0


GO_ON = MiddlewareResult()


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a layer makes of a run's result: the result, perhaps changed, and events to go with it."""

    result: AgentResult
    events: tuple[Event, ...] = ()


class AgentMiddleware(ABC):
    """One layer. Lower `priority` comes first; a layer that is not `enabled` is passed over."""

    name: ClassVar[str]
    priority: ClassVar[int]

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:  # noqa: ARG002
        """Answer for a request. Reads state, changes none."""
        return GO_ON

    def settle(self, request: ResolvedRequest, result: AgentResult) -> Settlement:  # noqa: ARG002
        """Look at a run's result before it is committed."""
        return Settlement(result)

    def fold(self, event: Event) -> None:
        """Take in an event that this lane writes or has written."""
