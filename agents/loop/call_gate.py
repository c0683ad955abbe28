"""The gate before a tool call, in graphs that many runs share.

Not a callback, as before a model call (`callbacks.py`): LangChain runs a tool that is a plain
function in a thread, where it only logs what a callback raises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ToolCallRequest
from langchain_core.messages import ToolMessage
from langgraph.types import Command
from typing_extensions import override

from millstream.schemas.ports import BeforeCall

__all__ = ["CallGate", "RunContext"]


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a graph is told of the run that it is invoked for."""

    before_call: BeforeCall | None


class CallGate(AgentMiddleware[Any, Any, Any]):
    """Awaits the `before_call` of the run's `RunContext` before each tool call."""

    @override
    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Make the call once it may be made; what `before_call` raises ends the run."""
        context: object = request.runtime.context
        if isinstance(context, RunContext) and context.before_call is not None:
            await context.before_call()
        return await handler(request)
