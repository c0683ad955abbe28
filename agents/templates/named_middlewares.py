"""LangChain's own agent middlewares, named in a template, each with its parameters.

Of these, the ones are known here that keep what a run promises. The parameters are LangChain's; a
value of one that would break a promise is refused with a word on what to write instead.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from millstream.schemas.base import Frozen, Identifier

__all__ = [
    "BUILT_IN_MIDDLEWARES",
    "FOR_TOOLS",
    "ContextEditing",
    "ModelCallLimit",
    "NamedMiddleware",
    "OwnMiddleware",
    "Pii",
    "TodoList",
    "ToolCallLimit",
    "ToolSelector",
]

REFUSED: Final = {
    "summarization": "write `memory: {strategy: summary}`, which does it between turns",
    "model_fallback": "name the further models in `models`",
    "model_retry": "`retry` does it, with attempts that are announced and paid for",
    "tool_retry": "`retry` does it; a tool with an effect would be called twice",
    "human_in_the_loop": "a run cannot be answered by a person yet",
    "tool_emulator": "it makes up what tools answer",
    "shell_tool": "it runs commands on the worker; give a tool of your own that does what you need",
}
"""What LangChain has and a template cannot name, and why."""

_Count = Annotated[int, Field(ge=1, le=10_000)]


class _Params(Frozen):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Named(Frozen):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PiiParams(_Params):
    """Parameters of `PIIMiddleware`; `detector` is a regular expression for a type of one's own."""

    pii_type: Identifier
    strategy: Literal["block", "redact", "mask", "hash"] = "redact"
    detector: Annotated[str, Field(min_length=1, max_length=1_000)] | None = None
    apply_to_input: bool = True
    apply_to_output: bool = False
    apply_to_tool_results: bool = False

    @field_validator("detector")
    @classmethod
    def _is_a_pattern(cls, detector: str | None) -> str | None:
        if detector is not None:
            try:
                re.compile(detector)
            except re.error as error:
                message = f"not a regular expression: {error}"
                raise ValueError(message) from error
        return detector

    @field_validator("apply_to_output")
    @classmethod
    def _leaves_the_answer_alone(cls, apply: bool) -> bool:  # noqa: FBT001  a field's value
        if apply:
            message = (
                "an answer is shown as it is written, so this would come too late: apply it to "
                "the input and to the results of tools"
            )
            raise ValueError(message)
        return apply

    @model_validator(mode="after")
    def _has_a_detector(self) -> Self:
        known = ("credit_card", "email", "ip", "mac_address", "url")
        if self.detector is None and self.pii_type not in known:
            message = f"{self.pii_type!r} needs a `detector`; known without one: {', '.join(known)}"
            raise ValueError(message)
        return self


class _LimitParams(_Params):
    thread_limit: _Count | None = None
    run_limit: _Count | None = None

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.thread_limit is None and self.run_limit is None:
            message = "give `run_limit`, `thread_limit` (of a whole session), or both"
            raise ValueError(message)
        if self.thread_limit and self.run_limit and self.run_limit > self.thread_limit:
            message = "`run_limit` is more than `thread_limit`: give no more"
            raise ValueError(message)
        return self


class ToolCallLimitParams(_LimitParams):
    """Parameters of `ToolCallLimitMiddleware`."""

    tool_name: Identifier | None = None
    exit_behavior: Literal["continue", "error", "end"] = "continue"


class ModelCallLimitParams(_LimitParams):
    """Parameters of `ModelCallLimitMiddleware`."""

    exit_behavior: Literal["end", "error"] = "end"


class ContextEditingParams(_Params):
    """Parameters of `ContextEditingMiddleware` with one `ClearToolUsesEdit`; tokens are counted."""

    trigger: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    clear_at_least: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    keep: Annotated[int, Field(ge=0, le=1_000)] = 3
    clear_tool_inputs: bool = False
    exclude_tools: tuple[Identifier, ...] = ()
    placeholder: Annotated[str, Field(min_length=1, max_length=200)] = "[cleared]"


class ToolSelectorParams(_Params):
    """Parameters of `LLMToolSelectorMiddleware`; `model` is a name as in `models`."""

    model: Identifier | None = None
    system_prompt: Annotated[str, Field(min_length=1, max_length=8_192)] | None = None
    max_tools: _Count | None = None
    always_include: tuple[Identifier, ...] = ()


class TodoListParams(_Params):
    """Parameters of `TodoListMiddleware`."""

    system_prompt: Annotated[str, Field(min_length=1, max_length=8_192)] | None = None
    tool_description: Annotated[str, Field(min_length=1, max_length=8_192)] | None = None


class Pii(_Named):
    """Finds personal data in what a model is to read, and redacts, masks, hashes or refuses it."""

    name: Literal["pii"] = "pii"
    params: PiiParams


class ToolCallLimit(_Named):
    """Bounds the tool calls of a run or of a session."""

    name: Literal["tool_call_limit"] = "tool_call_limit"
    params: ToolCallLimitParams


class ModelCallLimit(_Named):
    """Bounds the model calls of a run or of a session."""

    name: Literal["model_call_limit"] = "model_call_limit"
    params: ModelCallLimitParams


class ContextEditing(_Named):
    """Leaves out older results of tools once a run's messages are long."""

    name: Literal["context_editing"] = "context_editing"
    params: ContextEditingParams = ContextEditingParams()


class ToolSelector(_Named):
    """Has a model choose the tools that a run's model is offered."""

    name: Literal["tool_selector"] = "tool_selector"
    params: ToolSelectorParams = ToolSelectorParams()


class TodoList(_Named):
    """Gives the model a list of what it is to do, and a tool that writes it."""

    name: Literal["todo_list"] = "todo_list"
    params: TodoListParams = TodoListParams()


class OwnMiddleware(_Named):
    """One that the app gives by this name; its factory is called with the parameters."""

    name: Identifier
    params: Annotated[dict[str, Any], Field(max_length=64)] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _is_not_refused(cls, name: str) -> str:
        if (instead := REFUSED.get(name)) is not None:
            message = f"{name!r} cannot be named in a template: {instead}"
            raise ValueError(message)
        return name


FOR_TOOLS: Final = (ToolCallLimit, ContextEditing, ToolSelector, TodoList)
"""What only an agent with tools has a use for."""

BUILT_IN_MIDDLEWARES: Final = (
    "pii",
    "tool_call_limit",
    "model_call_limit",
    "context_editing",
    "tool_selector",
    "todo_list",
)


def _kind(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return name if name in BUILT_IN_MIDDLEWARES else "own"


NamedMiddleware = Annotated[
    Annotated[Pii, Tag("pii")]
    | Annotated[ToolCallLimit, Tag("tool_call_limit")]
    | Annotated[ModelCallLimit, Tag("model_call_limit")]
    | Annotated[ContextEditing, Tag("context_editing")]
    | Annotated[ToolSelector, Tag("tool_selector")]
    | Annotated[TodoList, Tag("todo_list")]
    | Annotated[OwnMiddleware, Tag("own")],
    Discriminator(_kind),
]
