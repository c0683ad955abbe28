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
    "WorstCase",
    "call_input_tokens_max",
    "calls_beside",
    "first_call",
    "input_tokens_max",
    "steps_beside",
    "tool_tokens_max",
    "tools_beside",
    "words_beside",
    "worst_case",
]

TOOL_TOKENS_MIN: Final = 256
"""Taken at least for a tool's description, which goes with every call: else a token for a byte."""

_SELECTOR_WORDS = 256
"""What the selector's instructions have beside those that can be set."""


_FRAMES: Final = 3
"""Of the system prompt, the question, and the whole, as a call that is made counts them."""


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The most that any run of a template uses, whatever its input.

    `input_tokens_max` and `output_tokens_max` are for all its model calls together, those of its
    memory and middlewares among them, of which there are `calls_beside` at most. To the former each
    byte of input adds `tokens_per_input_byte`. `first_call` is what any first of them reads, but
    for the input, and writes.
    """

    input_tokens_max: int
    tokens_per_input_byte: int
    output_tokens_max: int
    calls_beside: int
    first_call: tuple[int, int]


@dataclass(frozen=True, slots=True)
class CallsBeside:
    """Model calls that are not the agent's own: how many, and their tokens together.

    `longest` is what the longest of them reads and writes.
    """

    calls: int = 0
    input_tokens_max: int = 0
    output_tokens_max: int = 0
    longest: tuple[int, int] = (0, 0)


def worst_case(template: AgentTemplate, tools: Iterable[BaseTool]) -> WorstCase:
    """Give the most that a run of a template, fitted to its models, uses with these tools."""
    tools_tokens = sum(map(tool_tokens_max, tools))
    reads, reads_more = (
        input_tokens_max(template, size, tools_tokens)
        + calls_beside(template, size, tools_tokens).input_tokens_max
        for size in (0, 1)
    )
    beside = calls_beside(template, 0, tools_tokens)
    own_tokens = template.answer_tokens_max * template.run_model_calls_max
    return WorstCase(
        input_tokens_max=reads,
        tokens_per_input_byte=reads_more - reads,
        output_tokens_max=own_tokens + beside.output_tokens_max,
        calls_beside=beside.calls,
        first_call=first_call(template, tools_tokens),
    )


def calls_beside(template: AgentTemplate, text_bytes: int, tools_tokens: int) -> CallsBeside:
    """Give the most that a run's calls beside its own may use."""
    # How often each is made, and what it reads and writes.
    calls: list[tuple[int, int, int]] = []
    memory = template.memory
    if isinstance(memory, Summary):
        read = memory.read_tokens * BYTES_PER_TOKEN + SUMMARY_PROMPT_TOKENS_MAX
        calls.append((1, read, memory.summary_tokens))
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
    # Beside it, what sets it off from others in a list.
    described = len(str([convert_to_openai_tool(tool)]).encode(errors="replace")) + 2
    return max(TOOL_TOKENS_MIN, described)


def first_call(template: AgentTemplate, tools_tokens: int) -> tuple[int, int]:
    """Give the most tokens that any first model call of a run reads and writes, without its input.

    It may be one of the run's middlewares.
    """
    read, wrote = calls_beside(template, 0, tools_tokens).longest
    own = call_input_tokens_max(template, 0, tools_tokens)
    return max(read, own), max(wrote, template.answer_tokens_max)


def call_input_tokens_max(template: AgentTemplate, input_bytes: int, tools_tokens: int) -> int:
    """Give the most tokens that an agent's own first call reads: no token is less than a byte."""
    schema = "" if template.response_format is None else json.dumps(template.response_format)
    prompt = template.system_prompt or ""
    return (
        input_bytes
        + sum(len(words.encode(errors="replace")) for words in (prompt, schema))
        + words_beside(template)
        + memory_tokens_max(template.memory)
        + FRAME_TOKENS_MAX * _FRAMES
        + tools_tokens
    )


def input_tokens_max(template: AgentTemplate, input_bytes: int, tools_tokens: int) -> int:
    """Give the most tokens that the model calls of a run may read together."""
    read_each_time = call_input_tokens_max(template, input_bytes, tools_tokens)
    calls = template.run_model_calls_max
    # A call reads again what the calls before it wrote.
    read_again = template.answer_tokens_max * calls * (calls - 1) // 2
    return calls * read_each_time + read_again


def steps_beside(graph: Any, calls_max: int) -> int:
    """Give how many steps of a run its middlewares take: each hook is a node of the graph."""
    hooks = [name.rpartition(".")[2] for name in graph.nodes]
    each_time = hooks.count("before_model") + hooks.count("after_model")
    return calls_max * each_time + hooks.count("before_agent") + hooks.count("after_agent")
