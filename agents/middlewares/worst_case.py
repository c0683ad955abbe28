"""The most that a template's memory and middlewares read and write in calls of their own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from langchain.agents.middleware import TodoListMiddleware
from langchain.agents.middleware.todo import WRITE_TODOS_SYSTEM_PROMPT
from langchain.agents.middleware.tool_selection import DEFAULT_SYSTEM_PROMPT
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from millstream.agents.middlewares.build import SELECTOR_TOKENS_MAX
from millstream.agents.middlewares.summary_memory import SUMMARY_PROMPT_TOKENS_MAX
from millstream.agents.sessions.memory import BYTES_PER_TOKEN, FRAME_TOKENS_MAX, memory_tokens_max
from millstream.agents.templates.memory import Summary
from millstream.agents.templates.named_middlewares import TodoList, ToolSelector
from millstream.agents.templates.template import AgentTemplate

__all__ = [
    "CallsBeside",
    "call_input_tokens_max",
    "calls_beside",
    "first_call",
    "input_tokens_max",
    "steps_beside",
    "tool_tokens_max",
    "tools_beside",
    "words_beside",
]

TOOL_TOKENS_MIN: Final = 256
"""Taken at least for a tool's description, which goes with every call: else a token for a byte."""

_SELECTOR_WORDS = 256
"""What the selector's instructions have beside those that can be set."""


@dataclass(frozen=True, slots=True)
class CallsBeside:
    """Model calls that are not the agent's own: how many, and their tokens together.

    `longest` is what the longest of them reads and writes.
    """

    calls: int = 0
    input_tokens_max: int = 0
    output_tokens_max: int = 0
    longest: tuple[int, int] = (0, 0)


def calls_beside(template: AgentTemplate, text_bytes: int, tools_tokens: int) -> CallsBeside:
    """Give the most that a run's calls beside its own may use."""
    # How often each is made, and what it reads and writes.
    calls: list[tuple[int, int, int]] = []
    memory = template.memory
    if isinstance(memory, Summary):
        read = memory.read_tokens_max * BYTES_PER_TOKEN + SUMMARY_PROMPT_TOKENS_MAX
        calls.append((1, read, memory.summary_tokens_max))
    for one in template.middlewares:
        if isinstance(one, ToolSelector):
            prompt = one.params.system_prompt or DEFAULT_SYSTEM_PROMPT
            times = template.run_model_calls_max
            words = len(prompt.encode(errors="replace")) + _SELECTOR_WORDS
            # The tools' descriptions are in the schema of the answer.
            each = words + text_bytes + tools_tokens + 3 * FRAME_TOKENS_MAX
            calls.append((times, each, SELECTOR_TOKENS_MAX))
    return CallsBeside(
        sum(times for times, _, _ in calls),
        sum(times * read for times, read, _ in calls),
        sum(times * wrote for times, _, wrote in calls),
        longest=(
            max((read for _, read, _ in calls), default=0),
            max((wrote for _, _, wrote in calls), default=0),
        ),
    )


def tools_beside(template: AgentTemplate) -> Iterable[BaseTool]:
    """Give the tools that LangChain's own middlewares add to the template's."""
    for one in template.middlewares:
        if isinstance(one, TodoList):
            yield from TodoListMiddleware(**one.params.model_dump(exclude_none=True)).tools


def words_beside(template: AgentTemplate) -> int:
    """Give the bytes that middlewares add to the system prompt."""
    return sum(
        len((one.params.system_prompt or WRITE_TODOS_SYSTEM_PROMPT).encode(errors="replace"))
        for one in template.middlewares
        if isinstance(one, TodoList)
    )


def tool_tokens_max(tool: BaseTool) -> int:
    """Give the most tokens that a tool's description takes in a call."""
    return max(TOOL_TOKENS_MIN, len(str(convert_to_openai_tool(tool)).encode(errors="replace")))


def first_call(template: AgentTemplate, tools_tokens: int) -> tuple[int, int]:
    """Give the most tokens that any first model call of a run reads and writes, without its input.

    It may be one of the run's middlewares.
    """
    read, wrote = calls_beside(template, 0, tools_tokens).longest
    own = call_input_tokens_max(template, 0, tools_tokens)
    return max(read, own), max(wrote, template.output_tokens_max)


def call_input_tokens_max(template: AgentTemplate, input_bytes: int, tools_tokens: int) -> int:
    """Give the most tokens that an agent's own first call reads: no token is less than a byte."""
    schema = "" if template.response_format is None else json.dumps(template.response_format)
    prompt = template.system_prompt or ""
    return (
        input_bytes
        + sum(len(words.encode(errors="replace")) for words in (prompt, schema))
        + words_beside(template)
        + memory_tokens_max(template.memory)
        + FRAME_TOKENS_MAX * 2
        + tools_tokens
    )


def input_tokens_max(template: AgentTemplate, input_bytes: int, tools_tokens: int) -> int:
    """Give the most tokens that the model calls of a run may read together."""
    read_each_time = call_input_tokens_max(template, input_bytes, tools_tokens)
    calls = template.run_model_calls_max
    # A call reads again what the calls before it wrote.
    read_again = template.output_tokens_max * calls * (calls - 1) // 2
    return calls * read_each_time + read_again


def steps_beside(graph: Any, calls_max: int) -> int:
    """Give how many steps of a run its middlewares take: each hook is a node of the graph."""
    hooks = [name.rpartition(".")[2] for name in graph.nodes]
    each_time = hooks.count("before_model") + hooks.count("after_model")
    return calls_max * each_time + hooks.count("before_agent") + hooks.count("after_agent")
