"""How much of what a model writes can be seen while it writes it.

A call that is cut off is charged for what was seen of it. Reasoning that stays hidden, or an answer
that comes as a whole, is written all the same: such a call counts up to its limit of output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from langchain_core.language_models.chat_models import BaseChatModel

from millstream.agents.models.known.profiles import Profile

__all__ = ["SHOWN", "Shown", "asks_for_reasoning", "shown_by"]

Shown = Literal["all", "part", "nothing", "unknown"]
"""Of what a model writes: all is streamed; it may reason unseen; nothing is streamed; not known."""

SHOWN: Final = "millstream_shown"
"""In a model's metadata, which its callbacks get: how much of its output can be seen."""

_REASONING: Final = (
    *("reasoning", "reasoning_effort", "thinking", "thinking_budget", "thinking_level", "think"),
    *("enable_thinking", "include_thoughts", "thinking_config", "thinkingConfig"),
    *("reasoning_format", "effort"),
)
"""What providers call a request for reasoning, among the parameters of a call."""

_NESTED: Final = (
    *("options", "extra_body", "model_kwargs", "chat_template_kwargs", "generation_config"),
    *("output_config", "generationConfig"),
)

_OFF: Final = frozenset({"none", "off", "disabled", "false"})


def shown_by(model: BaseChatModel, published: Profile) -> Shown:
    """Give how much of what a model writes can be seen, as far as its class and profile tell.

    `published` is what is known of it by its name, where its own profile says nothing.
    """
    kind, base = type(model), BaseChatModel
    has_stream = kind._stream is not base._stream  # noqa: SLF001
    if model.disable_streaming or (
        "streaming" in model.model_fields_set and getattr(model, "streaming", None) is False
    ):
        return "nothing"
    # LangChain itself tells in this way whether a model streams.
    if not has_stream and kind._astream is base._astream:  # noqa: SLF001
        return "nothing"
    reasons = {**published, **(model.profile or {})}.get("reasoning_output")
    if reasons is True:
        return "part"
    # Called from a thread without an event loop it would not stream.
    return "all" if reasons is False and has_stream else "unknown"


def asks_for_reasoning(params: Mapping[str, Any]) -> bool | None:
    """Tell whether the parameters of a call ask its model to reason; `None`: they do not say."""
    told = [_is_on(params[name]) for name in _REASONING if params.get(name) is not None]
    for name in _NESTED:
        nested = params.get(name)
        if isinstance(nested, Mapping) and (asked := asks_for_reasoning(nested)) is not None:
            told.append(asked)
    return any(told) if told else None


def _is_on(value: object) -> bool:
    """Tell whether a setting asks for reasoning: a switch, a budget, an effort, or all in one."""
    if isinstance(value, Mapping):
        kind = value.get("type")
        if kind is not None:
            return _is_on(kind)
        told = [each for each in value.values() if each is not None]
        return any(map(_is_on, told)) if told else False
    return bool(value) and str(value).lower() not in _OFF
