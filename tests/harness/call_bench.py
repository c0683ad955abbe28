"""An agent that calls tools, around a model that says what it is told to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.tools import BaseTool, StructuredTool

from millstream.agents.attempt import RunOutcome
from millstream.agents.factory import AgentFactory
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import ToolRegistry
from tests.fakes.odd_models import OddModel, StreamingOddModel
from tests.harness.agent_runs import Runs

DONE = AIMessage("done")


class Refunds:
    """A tool with an effect, and what it did."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def tool(self, name: str = "refund") -> BaseTool:
        """Give the tool."""

        def refund(order: str = "") -> str:
            """Refund."""
            self.made.append(order)
            return f"refunded {order}"

        return StructuredTool.from_function(refund, name=name)


@dataclass
class CallBench:
    """A react agent with the given tools around a model that says what it is told to."""

    runs: Runs
    model: OddModel
    registry: ToolRegistry

    async def run(self, **fields: Any) -> RunOutcome:
        """Run it once; its text is its tokens."""
        outcome = await self.runs.run("x", template="own", **fields)
        self.runs.assert_text_is_the_tokens(outcome)
        return outcome


def bench(says: list[Any], *tools: BaseTool, streams: bool = False, **template: Any) -> CallBench:
    """Give a bench whose model says these in turn; `template` are fields of the agent's."""
    model = (StreamingOddModel if streams else OddModel)(says=says)
    registry = ToolRegistry(tools)
    own = AgentTemplate(name="own", kind="react", tools=registry.names(), **template)
    templates = (*BUILT_IN_TEMPLATES[:1], own)
    factory = AgentFactory(templates=templates, tools=registry, resolve=lambda *_, **__: model)
    return CallBench(Runs(factory), model, registry)


def piece(args: str | None, one: str | None = None, name: str | None = None, index: int | None = 0,
          **told: str) -> AIMessageChunk:  # fmt: skip
    """Give a piece of a call, as a stream has it."""
    chunk = tool_call_chunk(name=name, args=args, id=one, index=index)
    return AIMessageChunk("", tool_call_chunks=[chunk], response_metadata=told)


def end(reason: str) -> AIMessageChunk:
    """Give the end of a stream."""
    return AIMessageChunk("", response_metadata={"finish_reason": reason})
