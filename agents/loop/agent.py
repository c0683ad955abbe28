"""The two ways in which an agent answers: in LangGraph's loop, or with a single call of its model.

An agent without tools is a graph of one node that is visited once, and LangGraph's loop around that
one call takes several times the CPU and the memory of the call. So such a run makes the call itself
and leaves to LangGraph what outlives it: the session's state
([0015](docs/decisions/0015-one-call-needs-no-loop.md)). Both ways call the same model with the same
messages, and leave a state from which either goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from langchain.agents.middleware import PIIDetectionError
from langchain.agents.middleware.model_call_limit import ModelCallLimitExceededError
from langchain.agents.middleware.tool_call_limit import ToolCallLimitExceededError
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.graph.state import CompiledStateGraph

from millstream.agents.loop.answers import answer_without_calls
from millstream.agents.loop.callbacks import AgentCallbackHandler
from millstream.agents.loop.journal.model_answers import CHANGED
from millstream.agents.loop.model_gate import RunContext
from millstream.agents.loop.single_call import call_model
from millstream.agents.sessions.checkpointer import RunCheckpointer
from millstream.agents.tools import Caller
from millstream.schemas.errors import Terminal
from millstream.schemas.journal.errors import JournalMismatch
from millstream.schemas.reasons import words_of
from millstream.schemas.runs.errors import InterruptUnsupported

__all__ = ["Agent", "AgentGraph", "Invocation", "LoopAgent", "SingleCallAgent"]

WORDS_CHARS_MAX = 200

_REFUSALS = (PIIDetectionError, ModelCallLimitExceededError, ToolCallLimitExceededError)
"""By which a middleware ends a run on purpose."""

AgentGraph = CompiledStateGraph[Any, Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Invocation:
    """What an agent is told of one run.

    `steps_max` bounds its graph's steps; `caller` gives who asks, for its tools and middlewares.
    """

    question: HumanMessage
    session_id: str
    checkpointer: RunCheckpointer
    handler: AgentCallbackHandler
    context: RunContext
    steps_max: int
    caller: Callable[[], Caller]


class Agent(Protocol):
    """Answers. Holds no state of a run, so one serves any number side by side."""

    async def answer(self, run: Invocation) -> Any:
        """Answer, and leave the session's next state with the run's checkpointer.

        What the agent says goes to the run's handler; given is its structured answer, else
        the text of its last message. Raises `GraphRecursionError` beyond `steps_max`, and whatever
        model and tools do.
        """
        ...


@dataclass(frozen=True, slots=True)
class LoopAgent:
    """An agent that LangGraph runs.

    `steps_beside` is how many steps the middlewares that its template names may take besides the
    run's `steps_max`, `None` where it names none.
    """

    graph: AgentGraph
    steps_beside: int | None = None

    async def answer(self, run: Invocation) -> Any:
        """Answer as `Agent` says."""
        graph = self.graph.copy({"checkpointer": run.checkpointer})
        try:
            state = await self._invoked(graph, run)
        except _REFUSALS as error:
            raise Terminal(f"{type(error).__name__}: {words_of(error)}") from error
        if (asked := state.get("__interrupt__")) is not None:
            words = str(asked[0].value if asked else "")[:WORDS_CHARS_MAX]
            raise InterruptUnsupported(f"the agent asked for a person, which is not built: {words}")
        said = state["messages"][-1]
        if isinstance(said, AIMessage) and (plain := answer_without_calls(said)) is not said:
            run.checkpointer.replace(said, plain)
        is_told = self.steps_beside is None or run.context.calls.has_said(said.id)
        if not is_told and isinstance(said, AIMessage) and said.text:
            # What a middleware says in the model's place was not streamed.
            await run.handler.repeat(said.text)
        structured = state.get("structured_response")
        return said.text if structured is None else structured

    async def _invoked(self, graph: AgentGraph, run: Invocation) -> dict[str, Any]:
        with run.context.entered():
            state: dict[str, Any] = await graph.ainvoke(
                {"messages": [run.question]},
                {
                    "callbacks": [run.handler],
                    "configurable": {"thread_id": run.session_id},
                    "recursion_limit": run.steps_max + (self.steps_beside or 0),
                },
                context=run.caller(),
                # The lane writes once, at the end: a state in between would be put in vain.
                durability="exit",
            )
        return state


@dataclass(frozen=True, slots=True)
class SingleCallAgent:
    """An agent without tools, middleware and structured answers: one call of `model`.

    `graph` is that of the same agent. It writes the session's state.
    """

    graph: AgentGraph
    model: BaseChatModel
    system_message: SystemMessage | None

    async def answer(self, run: Invocation) -> Any:
        """Answer as `Agent` says. Raises `JournalMismatch` for a run that was in a loop before."""
        if not run.context.calls.is_new:
            message = (
                f"{run.context.calls.models_made} model calls of the run are recorded, and its "
                f"template makes a single one now, which is none of them: {CHANGED}; find out what "
                "the run did before you ask anew"
            )
            raise JournalMismatch(message)
        remembered = run.checkpointer.messages
        own = run.context.system_message or self.system_message
        system = () if own is None else (own,)
        said = await call_model(self.model, [*system, *remembered, run.question], run.handler)
        said = answer_without_calls(said)
        if run.checkpointer.add_turn(run.question, said):
            return said.text
        graph = self.graph.copy({"checkpointer": run.checkpointer})
        await graph.aupdate_state(
            {"configurable": {"thread_id": run.session_id}},
            {"messages": [run.question, said]},
            as_node="model",
        )
        return said.text
