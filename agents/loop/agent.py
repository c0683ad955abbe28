"""The two ways in which an agent answers: in LangGraph's loop, or with a single call of its model.

An agent without tools is a graph of one node that is visited once, and LangGraph's loop around that
one call takes several times the CPU and the memory of the call. So such a run makes the call itself
and leaves to LangGraph what outlives it: the session's state
([0015](docs/decisions/0015-one-call-needs-no-loop.md)). Both ways call the same model with the same
messages, and leave a state from which either goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.graph.state import CompiledStateGraph

from millstream.agents.loop.answers import answer_without_calls
from millstream.agents.loop.call_gate import RunContext
from millstream.agents.loop.callbacks import AgentCallbackHandler
from millstream.agents.loop.single_call import call_model
from millstream.agents.sessions.checkpointer import RunCheckpointer
from millstream.schemas.errors import InterruptUnsupported

__all__ = ["Agent", "AgentGraph", "Invocation", "LoopAgent", "SingleCallAgent"]

WORDS_CHARS_MAX = 200

AgentGraph = CompiledStateGraph[Any, Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Invocation:
    """What an agent is told of one run. `steps_max` bounds its graph's steps."""

    question: HumanMessage
    session_id: str
    checkpointer: RunCheckpointer
    handler: AgentCallbackHandler
    context: RunContext
    steps_max: int


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
    """An agent that LangGraph runs."""

    graph: AgentGraph

    async def answer(self, run: Invocation) -> Any:
        """Answer as `Agent` says."""
        graph = self.graph.copy({"checkpointer": run.checkpointer})
        state: dict[str, Any] = await graph.ainvoke(
            {"messages": [run.question]},
            {
                "callbacks": [run.handler],
                "configurable": {"thread_id": run.session_id},
                "recursion_limit": run.steps_max,
            },
            context=run.context,
            # The lane writes once, at the end: a state in between would be put in vain.
            durability="exit",
        )
        if (asked := state.get("__interrupt__")) is not None:
            words = str(asked[0].value if asked else "")[:WORDS_CHARS_MAX]
            raise InterruptUnsupported(f"the agent asked for a person, which is not built: {words}")
        said = state["messages"][-1]
        if isinstance(said, AIMessage) and (plain := answer_without_calls(said)) is not said:
            run.checkpointer.replace(said, plain)
        structured = state.get("structured_response")
        return said.text if structured is None else structured


@dataclass(frozen=True, slots=True)
class SingleCallAgent:
    """An agent without tools, middleware and structured answers: one call of `model`.

    `graph` is that of the same agent. It writes the session's state.
    """

    graph: AgentGraph
    model: BaseChatModel
    system_message: SystemMessage | None

    async def answer(self, run: Invocation) -> Any:
        """Answer as `Agent` says."""
        remembered = run.checkpointer.messages
        system = () if self.system_message is None else (self.system_message,)
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
