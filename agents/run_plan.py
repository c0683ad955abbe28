"""What a run will use, as it is known before the run starts."""

from __future__ import annotations

from dataclasses import dataclass

from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.base import NO_USAGE, Usage

__all__ = ["RunPlan"]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will use, known before it starts: its price can be reserved from this.

    `input_tokens_max` and `output_tokens_max` are for all of its model calls together. The former
    leaves out what tools give back, which nobody knows. `first_call` is the most that the first of
    them may use, be it its own or one of its middlewares. `effects` are those of its `tools` that
    may do what stays done. `models` are all that may answer, in order; `model` is the one that is
    called. `models_own` are the template's, whatever the request names.
    """

    template: AgentTemplate
    model: str
    input_tokens_max: int
    output_tokens_max: int
    first_call: Usage = NO_USAGE
    effects: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    models_own: tuple[str, ...] = ()
    models_beside: tuple[str, ...] = ()
    calls_beside: int = 0
    system_prompt: str | None = None

    @property
    def has_effects(self) -> bool:
        """Whether it has tools that may do what stays done."""
        return bool(self.effects)

    @property
    def model_calls_max(self) -> int:
        """The most model calls of an attempt, those of its middlewares among them."""
        return self.template.run_model_calls_max + self.calls_beside

    @property
    def models_after(self) -> tuple[str, ...]:
        """The models that follow the one that is called."""
        return self.models[self.models.index(self.model) + 1 :] if self.models else ()
