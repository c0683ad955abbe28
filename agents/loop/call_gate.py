"""The seam that all model and tool calls of a run go through, in agents that have tools.

Asked before a tool call is made here, and not in a callback as before a model's (`callbacks.py`):
LangChain runs a tool that is a plain function in a thread, where it only logs what a callback
raises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import structlog
from langchain.agents.middleware import ToolCallRequest
from langchain_core.messages import ToolCall
from langgraph.prebuilt import ToolRuntime
from typing_extensions import override

from millstream.agents.loop.calls import ToolAnswer
from millstream.agents.loop.containment import stops_run
from millstream.agents.loop.model_gate import ModelGate, RunContext
from millstream.agents.loop.telling.teller import ToolTelling
from millstream.agents.loop.tools.in_doubt import in_doubt_of
from millstream.agents.loop.tools.intents import Intent
from millstream.agents.loop.tools.one_call import PASSED_ON, OneCall
from millstream.agents.loop.tools.tool_answers import bounded_answer, error_told
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tool_schemas import problem_of, takes
from millstream.agents.tools import Caller, ToolRegistry
from millstream.agents.tools.caller import idempotency_key
from millstream.schemas.errors import LaneLost, Suspended
from millstream.schemas.ports import wall_clock_ms
from millstream.schemas.reasons import words_of
from millstream.schemas.runs.errors import ToolFailed, ToolStuck

__all__ = ["CallGate"]

_log = structlog.get_logger(__name__)


class CallGate(ModelGate):
    """Does as `ModelGate`, and asks before, makes, keeps and answers each tool call.

    For agents with tools only: LangChain routes any other otherwise where tool calls are wrapped.
    """

    def __init__(
        self,
        tools: ToolRegistry,
        template: AgentTemplate,
        *,
        schema: Mapping[str, Any] | None = None,
        bounds_run: bool = False,
    ) -> None:
        super().__init__(
            model_calls_max=template.run_model_calls_max,
            answer_calls_max=template.answer_calls_max,
            schema=schema,
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
        context = RunContext.current()
        if context is None:
            return await handler(request)
        call = request.tool_call
        call_id = call["id"] or ""
        telling = context.voice.teller.of_tool(call, getattr(request.tool, "tags", None))
        # Before its tool is looked at, which may be gone or take other arguments by now.
        if (kept := context.calls.answered_tool(call_id)) is not None:
            if context.calls.was_not_made(call_id):
                await telling.not_made(kept, recorded=True)
            else:
                await telling.recorded(kept)
            return kept
        begun = context.calls.intents.get(call_id)
        why = context.calls.fault(call_id) or self._problem(request, begun)
        if why is not None:
            return await self._not_made(
                context, call, telling, error_told(call, f"this call was not made: {why}")
            )
        if request.tool is None:
            return await self._not_made(context, call, telling, await handler(request))
        if context.before_call is not None:
            await context.before_call()
        one = self._one_call(request, handler, begun)
        if one.rules.has_effects:
            context.calls.intents.setdefault(call_id, one.intent)

        async def make(_: bool) -> ToolAnswer:  # noqa: FBT001  as `Calls` asks it
            try:
                with context.under_way.calling(call["name"]):
                    made: ToolAnswer = await telling.made(self._made(one, begun))
                    return made
            except ToolStuck:
                context.calls.stuck[call_id] = call["name"]
                raise

        return await context.calls.tool(call_id, call["name"], make, one.rules)

    async def _not_made(
        self, context: RunContext, call: ToolCall, telling: ToolTelling, told: ToolAnswer
    ) -> ToolAnswer:
        answer = context.calls.keep_not_made(call["id"] or "", call["name"], told)
        await telling.not_made(answer)
        return answer

    def _problem(self, request: ToolCallRequest, begun: Intent | None) -> str | None:
        """Say why a call cannot be made as its tool is now; `None`: it can, or there is no tool.

        Raises `InDoubt` for one that was begun, as its tool was then.
        """
        call, tool = request.tool_call, request.tool
        why = None
        if tool is not None:
            why = problem_of(tool, call["args"], self._tools.arguments(call["name"]))
        if begun is None:
            return why
        if tool is None:
            raise in_doubt_of(begun, "its tool is gone")
        if why is not None or not takes(tool, call["args"]):
            raise in_doubt_of(begun, "its tool takes other arguments now")
        return None

    async def _made(self, one: OneCall, begun: Intent | None) -> ToolAnswer:
        call, rules = one.call, one.rules
        try:
            answer = await one.answer(begun=begun)
        except PASSED_ON:
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
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolAnswer]],
        begun: Intent | None,
    ) -> OneCall:
        call, rules = request.tool_call, self._tools.rules(request.tool_call["name"])
        # LangGraph's types know of no context here.
        runtime: ToolRuntime[Any, Any] = request.runtime
        asks: Caller = runtime.context
        # As it was given before, also where a version makes it otherwise.
        key = None if begun is None else begun.key
        at_ms = (begun and begun.at_ms) or wall_clock_ms()
        caller = replace(
            asks,
            idempotency_key=key or idempotency_key(asks, call["id"] or ""),
            called_at_ms=at_ms,
        )
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
            at_ms=at_ms,
        )


def _of_the_lane(error: BaseException) -> LaneLost | Suspended | None:
    """Give what ends the run from outside, where a tool's own tasks met it beside other errors."""
    if isinstance(error, LaneLost | Suspended):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = (_of_the_lane(one) for one in error.exceptions)
        return next((one for one in found if one is not None), None)
    return None
