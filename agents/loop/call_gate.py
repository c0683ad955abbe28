"""The seam that all model and tool calls of a run go through, in graphs that many runs share.

Asked before a tool call is made here, and not in a callback as before a model's (`callbacks.py`):
LangChain runs a tool that is a plain function in a thread, where it only logs what a callback
raises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import structlog
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelRequest,
    ModelResponse,
    ToolCallRequest,
)
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.tool import ToolCallChunk
from langgraph.errors import GraphBubbleUp, GraphRecursionError
from langgraph.prebuilt import ToolRuntime
from typing_extensions import override

from millstream.agents.loop.answers import announces_calls, bounded_calls, checked_answer_of
from millstream.agents.loop.calls import Calls, ToolAnswer
from millstream.agents.loop.containment import stops_run
from millstream.agents.loop.tools.one_call import OneCall
from millstream.agents.loop.tools.tool_answers import bounded_answer, error_told
from millstream.agents.loop.under_way import UnderWay
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tool_schemas import problem_of
from millstream.agents.tools import Caller, ToolRegistry
from millstream.agents.tools.caller import idempotency_key
from millstream.schemas.errors import (
    InDoubt,
    LaneLost,
    ModelFailed,
    Suspended,
    ToolFailed,
    ToolStuck,
)
from millstream.schemas.ports import BeforeCall
from millstream.schemas.reasons import words_of

__all__ = ["CallGate", "ModelGate", "RunContext", "Voice"]

# Told to the model and not remembered: the answer that it follows has nothing to remember.
_NO_CALL_CAME: Final = (
    "You announced a tool call, but none arrived. Make the call again, or answer without it."
)

_log = structlog.get_logger(__name__)


class Voice(Protocol):
    """What the seam needs of a run's callbacks."""

    def pieces(self) -> Sequence[ToolCallChunk]:
        """Give the tool calls of the agent's newest model call as they were streamed, merged."""
        ...

    async def repeat(self, text: str) -> None:
        """Write what a model said in an earlier attempt."""
        ...


@dataclass(frozen=True, slots=True)
class RunContext:
    """What the gates of a graph know of the run that it is invoked for.

    Not the graph's own context, which tools and middlewares are given: that is a `Caller`.
    `system_message` is the run's own, where its template's prompt has variables.
    """

    before_call: BeforeCall | None
    calls: Calls
    voice: Voice
    under_way: UnderWay = field(default_factory=UnderWay)
    system_message: SystemMessage | None = None

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
    of steps does not.
    """

    def __init__(
        self,
        *,
        model_calls_max: int,
        answer_calls_max: int | None = None,
        bounds_run: bool = False,
    ) -> None:
        super().__init__()
        self._model_calls_max = model_calls_max
        self._answer_calls_max = answer_calls_max
        self._bounds_run = bounds_run

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Give the answer of an earlier attempt, or the model's with its calls checked."""
        context = _run.get()
        if context is None:
            return await handler(request)
        follows = _newest_answer(request.messages)
        kept = context.calls.answered_model(follows)
        if kept is not None:
            for message in kept.result:
                if isinstance(message, AIMessage) and message.text:
                    await context.voice.repeat(message.text)
            return kept
        if self._bounds_run and context.calls.models_made >= self._model_calls_max:
            raise GraphRecursionError
        # The run's own instructions, before any middleware adds to them.
        if context.system_message is not None:
            request = request.override(system_message=context.system_message)
        response = await self._asked(request, handler)
        return _checked(request, response, context, follows, self._answer_calls_max)

    async def _asked(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        for _ in range(self._model_calls_max):
            response = await handler(request)
            said = response.result[0] if response.result else None
            if not isinstance(said, AIMessage) or not announces_calls(said):
                return response
            told: list[AnyMessage] = [said] if said.text else []
            told.append(HumanMessage(_NO_CALL_CAME))
            request = request.override(messages=[*request.messages, *told])
        message = f"the model announced a tool call and made none, {self._model_calls_max} times"
        raise ModelFailed(message)


class CallGate(ModelGate):
    """The same, and asks before, makes, keeps and answers each tool call.

    For agents with tools only: LangChain routes any other otherwise where tool calls are wrapped.
    """

    def __init__(
        self, tools: ToolRegistry, template: AgentTemplate, *, bounds_run: bool = False
    ) -> None:
        super().__init__(
            model_calls_max=template.run_model_calls_max,
            answer_calls_max=template.answer_calls_max,
            bounds_run=bounds_run,
        )
        self._tools = tools
        self._template = template

    @override
    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolAnswer]],
    ) -> ToolAnswer:
        """Answer a call: from an earlier attempt, with what is wrong with it, or by making it.

        What `before_call` raises ends the run. What the tool raises is told to the model, unless
        its registration says otherwise.
        """
        context = _run.get()
        if context is None:
            return await handler(request)
        call = request.tool_call
        call_id = call["id"] or ""
        why = context.calls.fault(call_id)
        if why is None and request.tool is not None:
            why = problem_of(request.tool, call["args"], self._tools.arguments(call["name"]))
        if why is not None:
            return error_told(call, f"this call was not made: {why}")
        if request.tool is None:
            return await handler(request)
        if (kept := context.calls.answered_tool(call_id)) is not None:
            return kept
        if context.before_call is not None:
            await context.before_call()

        async def make(in_doubt: bool) -> ToolAnswer:  # noqa: FBT001  as `Calls` asks it
            try:
                with context.under_way.calling(call["name"]):
                    return await self._made(request, handler, in_doubt=in_doubt)
            except ToolStuck:
                context.calls.stuck[call_id] = call["name"]
                raise

        rules = self._tools.rules(call["name"])
        return await context.calls.tool(call_id, call["name"], make, rules)

    async def _made(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolAnswer]],
        *,
        in_doubt: bool,
    ) -> ToolAnswer:
        call = request.tool_call
        rules = self._tools.rules(call["name"])
        one = self._one_call(request, handler)
        try:
            answer = await one.answer(in_doubt=in_doubt)
        except (LaneLost, Suspended, ToolStuck, InDoubt, GraphBubbleUp, MemoryError):
            raise
        except Exception as error:
            if (ours := _of_the_lane(error)) is not None:
                raise ours from error
            if stops_run(error):
                raise
            if rules.ends_run_on_error:
                why = f"{type(error).__name__}: {words_of(error)}"
                raise ToolFailed(f"the tool {call['name']!r} failed: {why}") from error
            _log.info("a tool failed", tool=call["name"], exc_info=error)
            return error_told(call, error)
        bytes_max = rules.result_bytes_max or self._template.tool_result_bytes_max
        return bounded_answer(call, answer, bytes_max)

    def _one_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolAnswer]]
    ) -> OneCall:
        call, rules = request.tool_call, self._tools.rules(request.tool_call["name"])
        # LangGraph's types know of no context here.
        runtime: ToolRuntime[Any, Any] = request.runtime
        asks: Caller = runtime.context
        caller = replace(asks, idempotency_key=idempotency_key(asks, call["id"] or ""))
        runtime = replace(runtime, context=caller)

        async def make() -> ToolAnswer:
            # What a tool does to its arguments is not what the model said.
            own: ToolCall = {**call, "args": deepcopy(call["args"])}
            return await handler(replace(request, tool_call=own, runtime=runtime))

        return OneCall(
            call,
            rules,
            caller,
            make,
            timeout_s=rules.timeout_s or self._template.tool_timeout_s,
            may_repeat=self._template.in_doubt == "retry",
        )


def _checked(
    request: ModelRequest[Any],
    response: ModelResponse[Any],
    context: RunContext,
    follows: str,
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
    context.calls.keep_model(follows, response, checked.faults)
    return response


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


def _of_the_lane(error: BaseException) -> LaneLost | Suspended | None:
    """Give what ends the run from outside, where a tool's own tasks met it beside other errors."""
    if isinstance(error, LaneLost | Suspended):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = (_of_the_lane(one) for one in error.exceptions)
        return next((one for one in found if one is not None), None)
    return None


def _newest_answer(messages: Sequence[AnyMessage]) -> str:
    """Give the id of the newest answer to this turn's question, `""` if there is none yet."""
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            return message.id or ""
        if isinstance(message, HumanMessage):
            break
    return ""
