"""The seam that all model calls of a run go through, in graphs that many runs share.

`call_gate.py` is the same for agents with tools, and has their calls go through it too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Protocol

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.agents.structured_output import StructuredOutputValidationError
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.tool import ToolCallChunk
from langgraph.errors import GraphRecursionError
from typing_extensions import override

from millstream.agents.ids import new_id
from millstream.agents.loop.answers import announces_calls, bounded_calls, checked_answer_of
from millstream.agents.loop.calls import Calls
from millstream.agents.loop.telling.teller import Teller
from millstream.agents.loop.tools.tool_answers import error_told
from millstream.agents.loop.under_way import UnderWay
from millstream.agents.templates.structured import in_form, told_again
from millstream.schemas.errors import ModelFailed
from millstream.schemas.ports import BeforeCall

__all__ = ["ModelGate", "RunContext", "Voice"]

# Told to the model and not remembered: the answer that it follows has nothing to remember.
_NO_CALL_CAME: Final = (
    "You announced a tool call, but none arrived. Make the call again, or answer without it."
)


class Voice(Protocol):
    """What the seam needs of a run's callbacks."""

    def pieces(self) -> Sequence[ToolCallChunk]:
        """Give the tool calls of the agent's newest model call as they were streamed, merged."""
        ...

    @property
    def teller(self) -> Teller:
        """What tells of the run's calls."""
        ...

    async def repeat(self, text: str) -> None:
        """Write what a model said in an earlier attempt."""
        ...


@dataclass(frozen=True, slots=True)
class RunContext:
    """What the gates of a graph know of the run that it is invoked for.

    Not the graph's own context, which tools and middlewares are given: that is a `Caller`.
    `system_message` is the run's own, where its template's prompt has variables. `question_id` is
    the id of the message that asks, in each of its loops.
    """

    before_call: BeforeCall | None
    calls: Calls
    voice: Voice
    under_way: UnderWay = field(default_factory=UnderWay)
    system_message: SystemMessage | None = None
    question_id: str = field(default_factory=new_id)

    @staticmethod
    def current() -> RunContext | None:
        """Give the run that is entered in this context."""
        return _run.get()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have the gates that are asked meanwhile, in this context, find this run."""
        token = _run.set(self)
        try:
            yield
        finally:
            # The garbage collector closes a run that nobody ended outside of its context.
            with suppress(ValueError):
                _run.reset(token)


_run: ContextVar[RunContext | None] = ContextVar("millstream_gated_run", default=None)


class ModelGate(AgentMiddleware[Any, Any, Any]):
    """Makes, keeps and answers each model call of a run; of runs without `RunContext`, none.

    `model_calls_max` bounds how often a model is called again that announces calls and makes none,
    `answer_calls_max` how many calls of one answer are made. With `bounds_run` the former bounds
    the run's calls as well: where a middleware sends an agent back to its model, a graph's number
    of steps does not. An answer that ends the run has to fit `schema`, if there is one: what does
    not is not kept.
    """

    def __init__(
        self,
        *,
        model_calls_max: int,
        answer_calls_max: int | None = None,
        schema: Mapping[str, Any] | None = None,
        bounds_run: bool = False,
    ) -> None:
        super().__init__()
        self._model_calls_max = model_calls_max
        self._answer_calls_max = answer_calls_max
        self._schema = schema
        self._bounds_run = bounds_run

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Give the answer of an earlier attempt, or the model's with its calls checked.

        Raises `AnswerInvalid` for one that does not fit the schema.
        """
        context = _run.get()
        if context is None:
            return await handler(request)
        # The run's own instructions, before any middleware adds to them.
        if context.system_message is not None:
            request = request.override(system_message=context.system_message)
        turn = _turn(request.messages, context.question_id)
        follows = _newest_answer(turn)
        asked_now = context.calls.digest_of(turn)
        kept = context.calls.answered_model(follows, asked_now)
        if kept is not None:
            for message in kept.result:
                if isinstance(message, AIMessage):
                    if message.text:
                        await context.voice.repeat(message.text)
                    await context.voice.teller.model_recorded(message)
            return kept
        if self._bounds_run and context.calls.models_made >= self._model_calls_max:
            raise GraphRecursionError
        asked = request
        if (repair := context.calls.repair) is not None:
            # Told to the model and not remembered.
            asked = request.override(messages=[*request.messages, *told_again(repair)])
        await context.calls.door()
        began_s = monotonic()
        response = await self._asked(asked, handler)
        took_ms = round((monotonic() - began_s) * 1000)
        if self._schema is not None:
            response = in_form(self._schema, response)
        call = (follows, asked_now, took_ms)
        return _checked(request, response, context, call, self._answer_calls_max)

    async def _asked(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        for _ in range(self._model_calls_max):
            try:
                response = await handler(request)
            except StructuredOutputValidationError as error:
                # Read again where the schema is looked at: it may stand in a fence of Markdown.
                response = ModelResponse([error.ai_message])
            said = response.result[0] if response.result else None
            if not isinstance(said, AIMessage) or not announces_calls(said):
                return response
            told: list[AnyMessage] = [said] if said.text else []
            told.append(HumanMessage(_NO_CALL_CAME))
            request = request.override(messages=[*request.messages, *told])
        message = f"the model announced a tool call and made none, {self._model_calls_max} times"
        raise ModelFailed(message)


def _checked(
    request: ModelRequest[Any],
    response: ModelResponse[Any],
    context: RunContext,
    call: tuple[str, str | None, int],
    calls_max: int | None,
) -> ModelResponse[Any]:
    if not response.result or not isinstance(said := response.result[0], AIMessage):
        return response
    # Also of calls that a middleware took out of the conversation.
    taken = context.calls.ids | {
        call["id"]
        for message in request.messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
        if call["id"]
    }
    checked = checked_answer_of(said, context.voice.pieces(), taken)
    if calls_max is not None:
        checked = bounded_calls(checked, calls_max)
    message = checked.message
    if message.id is not None and any(message.id == one.id for one in request.messages):
        # Some servers give each answer the same id: it would take the place of the one before.
        message = message.model_copy(update={"id": f"{message.id}-{len(request.messages)}"})
    if message is not said or checked.faults:
        response = _with(response, message, checked.faults, in_loop=bool(request.tools))
    follows, asked, took_ms = call
    return context.calls.keep_model(follows, response, checked.faults, asked, took_ms=took_ms)


def _with(
    response: ModelResponse[Any], message: AIMessage, faults: Any, *, in_loop: bool
) -> ModelResponse[Any]:
    """Give a response with another message. Without tools, nobody else would answer its calls."""
    if in_loop:
        return ModelResponse([message, *response.result[1:]], response.structured_response)
    if not faults:
        answers = [
            one.model_copy(update={"tool_call_id": call["id"]})
            for one, call in zip(response.result[1:], message.tool_calls, strict=False)
            if isinstance(one, ToolMessage)
        ]
        return ModelResponse([message, *answers], response.structured_response)
    told = [
        error_told(call, f"this call was not made: {faults.get(call['id'], 'the other is wrong')}")
        for call in message.tool_calls
    ]
    return ModelResponse([message, *told])


def _turn(messages: Sequence[AnyMessage], question_id: str) -> Sequence[AnyMessage]:
    """Give this turn's question, and what was said since, also by middlewares in its name.

    Where a middleware took the question away, the newest message of a person is where it begins.
    """
    # From the front: what a session remembers is bounded, and a turn may have a thousand messages.
    for number, message in enumerate(messages):
        if message.id == question_id:
            return messages[number:]
    for number in range(len(messages) - 1, -1, -1):
        if isinstance(messages[number], HumanMessage):
            return messages[number:]
    return messages


def _newest_answer(turn: Sequence[AnyMessage]) -> str:
    """Give the id of the newest answer in this turn, `""` if there is none yet."""
    return next((one.id or "" for one in reversed(turn) if isinstance(one, AIMessage)), "")
