"""The sizes of a template that names none: by the models that may answer its runs.

As numbers for a context: an eighth is for an answer, at most 4,096 tokens; a half is for what the
session remembers, at most 32,768. The rest is for the system prompt, the question, tools and what
they give. Of the local model's 2,048 tokens that makes 256 and 1,024, which is taken as well where
nothing is known ([0051](docs/decisions/0051-sizes-follow-the-model.md)).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from millstream.agents.models.known.windows import Window, WindowOf
from millstream.agents.templates.memory import SIZES, SUMMARY_TOKENS, TOKENS_MAX, Summary
from millstream.agents.templates.template import OUTPUT_TOKENS, AgentTemplate, named

__all__ = ["Sizes", "as_written_before", "fitted", "sizes_by_model", "sizes_for", "sizes_of"]

CONTEXT_TOKENS: Final = 2048
"""Taken for the context of a model that nothing is known of."""

OUTPUT_SHARE: Final = 8
OUTPUT_TOKENS_MAX: Final = 4096
MEMORY_SHARE: Final = 2
MEMORY_TOKENS_MAX: Final = 32_768


@dataclass(frozen=True, slots=True)
class Sizes:
    """What suits the models of a run, in tokens.

    Attributes:
        output_tokens: For one model call to write.
        memory_tokens: For what a model is shown of earlier turns.
        read_tokens: For what a summary of earlier turns is made of.
    """

    output_tokens: int = OUTPUT_TOKENS
    memory_tokens: int = TOKENS_MAX
    read_tokens: int = TOKENS_MAX


def sizes_for(
    windows: Iterable[Window], *, summary: Window | None = None, output_tokens: int | None = None
) -> Sizes:
    """Give the sizes that suit each of a run's models, so that any of them may go on with it.

    `summary` is the window of the model that writes summaries, where it is another one.
    `output_tokens` is the limit of an answer that the template names, to be left room for.
    """
    known = tuple(windows)
    context = min((_context_of(one) for one in known), default=CONTEXT_TOKENS)
    limits = [one.output_tokens for one in known if one.output_tokens is not None]
    memory = context // MEMORY_SHARE
    if output_tokens is not None and context > CONTEXT_TOKENS:
        # A longer answer than an eighth takes from what is remembered, down to an eighth.
        longer = max(0, output_tokens - context // OUTPUT_SHARE)
        memory = max(context // OUTPUT_SHARE, memory - longer)
    memory = min(memory, MEMORY_TOKENS_MAX)
    writer = context if summary is None else _context_of(summary)
    return Sizes(
        output_tokens=min(context // OUTPUT_SHARE, OUTPUT_TOKENS_MAX, *limits),
        memory_tokens=memory,
        read_tokens=min(writer // MEMORY_SHARE, MEMORY_TOKENS_MAX),
    )


def sizes_of(
    template: AgentTemplate,
    windows: WindowOf,
    *,
    default: str,
    models: Iterable[str] | None = None,
) -> Sizes:
    """Give the sizes that suit a template's models, or those `models` of a run.

    `windows` tells of a model by its name, `default` is the deployment's default model.
    """
    memory, writer = template.memory, None
    if isinstance(memory, Summary) and memory.model is not None:
        writer = windows(*named((memory.model,), default))
    asked = named(template.models, default) if models is None else models
    limit = template.output_tokens_max
    return sizes_for(map(windows, asked), summary=writer, output_tokens=limit)


def fitted(template: AgentTemplate, sizes: Sizes) -> AgentTemplate:
    """Give a template with all its sizes: those that it names, and else these."""
    changes: dict[str, Any] = {}
    if template.output_tokens_max is None:
        changes["output_tokens_max"] = sizes.output_tokens
    memory = template.memory.fitted(sizes.memory_tokens, sizes.read_tokens)
    if memory is not template.memory:
        changes["memory"] = memory
    return template.model_copy(update=changes) if changes else template


def sizes_by_model(template: AgentTemplate) -> tuple[str, ...]:
    """Give the names of a template's sizes that follow the model, since it names none."""
    own = () if template.output_tokens_max is not None else ("output_tokens_max",)
    memory = template.memory
    of_memory = (name for name in SIZES if getattr(memory, name, 0) is None)
    return (*own, *(f"memory.{name}" for name in of_memory))


def as_written_before(template: AgentTemplate) -> AgentTemplate:
    """Give a template with the numbers that an earlier version put where it names no sizes.

    That version wrote them out, so what it wrote of the same template names them.
    """
    changes: dict[str, Any] = {}
    if template.output_tokens_max is None:
        changes["output_tokens_max"] = OUTPUT_TOKENS
    memory = template.memory
    numbers = {
        name: SUMMARY_TOKENS if name == "summary_tokens_max" else TOKENS_MAX
        for name in SIZES
        if getattr(memory, name, 0) is None
    }
    if numbers:
        changes["memory"] = memory.model_copy(update=numbers)
    return template.model_copy(update=changes) if changes else template


def _context_of(window: Window) -> int:
    known = window.context_tokens
    return CONTEXT_TOKENS if known is None else known
