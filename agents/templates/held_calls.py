"""An end to the tool calls of a model that is held to their form, and cannot tell when to stop."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from typing_extensions import override

__all__ = ["AnswersInTheEnd"]


class AnswersInTheEnd(AgentMiddleware[Any, Any, Any]):
    """Lets a model only answer where it asks for what it was told, or in its last permitted call.

    A small model calls the same tool again and again. A larger one is left to the template's
    bound, since it may know why it asks twice.
    """

    def __init__(self, *, model_calls_max: int) -> None:
        super().__init__()
        self._model_calls_max = model_calls_max

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Offer tools, or none any more."""
        made = _calls_of_turn(request.messages)
        is_last = len(made) >= self._model_calls_max - 1
        if is_last or (made and made[-1] in made[:-1]):
            request = request.override(tool_choice="none")
        return await handler(request)


def _calls_of_turn(messages: Sequence[AnyMessage]) -> list[str]:
    """Give the calls of each answer to the newest question, so that equal ones are equal."""
    calls: list[str] = []
    for message in messages:
        if isinstance(message, HumanMessage):
            calls.clear()
        elif isinstance(message, AIMessage):
            made = [(call["name"], call["args"]) for call in message.tool_calls]
            calls.append(json.dumps(made, sort_keys=True, default=str))
    return calls
