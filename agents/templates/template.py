"""What an agent is made from: a frozen, versioned value, and the three that are built in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from millstream.agents.templates.answer_schema import check_schema
from millstream.agents.templates.memory import SIZES, LastTurns, Memory, Summary
from millstream.agents.templates.named_middlewares import FOR_TOOLS, NamedMiddleware, ToolSelector
from millstream.agents.templates.prompt import PromptVariable, VariableName, prompt_problem
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.session_rules import SessionRules
from millstream.schemas.base import Frozen, Identifier

__all__ = ["BUILT_IN_TEMPLATES", "DEFAULT_MODEL", "OUTPUT_TOKENS", "AgentTemplate", "named"]

DEFAULT_MODEL: Final = "default"
"""In a template's `models`, the deployment's default model."""

OUTPUT_TOKENS: Final = 256
"""For an answer where nothing is known of the model: an eighth of a context of 2,048 tokens."""


def named(names: Iterable[str], default: str) -> tuple[str, ...]:
    """Give the names of models with that of the deployment's `default` model in its place."""
    return tuple(default if one == DEFAULT_MODEL else one for one in names)


# A glob in one would say nothing: globs are for what a role grants.
Permission = Annotated[
    str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")
]


class AgentTemplate(Frozen):
    """One kind of agent. A (`name`, `version`) names one content, for ever.

    `models` are asked in order: one that fails, is overloaded or has no key is followed by the next
    at once, also in the middle of its answer. `default` is the deployment's default model, and a
    request that names a model names the first.
    `system_prompt` may hold `{variables}`, each declared in `prompt_variables` and filled in from
    the request's metadata. `permissions` are what a user's roles must grant, by the policy.
    `tools` are names in the tool registry. `middlewares` are LangChain's, the outermost first.
    `response_format` is the JSON schema of an object that a `structured` agent answers with; it may
    have tools, too. An answer that does not fit is given anew, by another attempt, up to
    `repairs_max` times; the model is told what was wrong. `retry` has no part in it.
    With tools a run makes up to `model_calls_max` model calls, without one; each writes up to
    `output_tokens_max` tokens; where that is not given, as many as suit its models (`sizes.py`). An
    attempt ends after `attempt_timeout_s` seconds, and one that failed is tried again as `retry`
    says. However many there are, the request ends once
    they and the waits between them took `request_timeout_s` seconds. The model is shown earlier
    turns of the session as `memory` says, and up to `tool_result_bytes_max` bytes of a tool's
    result. Up to `tool_threads_max` threads run this template's synchronous tools; a call whose
    time is up is waited for `tool_grace_s` seconds more, and then its thread counts as lost. A call
    of a tool that declares no `timeout_s` itself takes `tool_timeout_s` seconds at most. Of one
    answer's tool calls the first `answer_calls_max` are made; the model is told of the others.

    What a run finished is on its journal, and is not made again, whoever goes on with it. Where a
    call of an earlier owner may still be under way whose `reconcile` function is to be asked, that
    is asked once the call's time is over, after `effects_wait_s` seconds at most. Where it is not
    known whether a call was made, and nothing declared says what to do, the run ends as `in_doubt`
    says: it fails, naming the calls, or is tried again. Then the call in doubt is made again.

    `cut_answer` says what becomes of an answer that ended at its limit of tokens, or at its
    provider's filter: `complete` completes the run, and the result's `finish_reason` says it;
    `fail` ends it as `answer_cut`. A structured one fails in any case.

    `steps` says whose steps are written to the topic `steps`: those of `all` runs, those of agents
    with `tools` (and of attempts that follow another), or `none`. `session` says how its sessions
    begin, and how long they live.
    """

    # A misspelt field would be a limit that silently does not hold.
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Identifier
    version: Annotated[str, Field(min_length=1, max_length=64)] = "1"
    kind: Literal["chat", "react", "structured"] = "chat"
    models: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=9)] = (DEFAULT_MODEL,)
    system_prompt: Annotated[str, Field(max_length=32_768)] | None = None
    prompt_variables: Annotated[dict[VariableName, PromptVariable], Field(max_length=32)] = Field(
        default_factory=dict
    )
    permissions: Annotated[tuple[Permission, ...], Field(max_length=32)] = ()
    tools: tuple[Identifier, ...] = ()
    middlewares: Annotated[tuple[NamedMiddleware, ...], Field(max_length=16)] = ()
    response_format: dict[str, Any] | None = None
    repairs_max: Annotated[int, Field(ge=0, le=10)] = 1
    output_tokens_max: Annotated[int, Field(ge=1, le=131_072)] | None = None
    cut_answer: Literal["complete", "fail"] = "complete"
    model_calls_max: Annotated[int, Field(ge=1, le=1000)] = 8
    attempt_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    # None: `attempts_max` attempts bound a request as well, and this one costs a record on the log.
    request_timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    retry: RetryPolicy = RetryPolicy()
    memory: Memory = LastTurns()
    tool_result_bytes_max: Annotated[int, Field(ge=256, le=200_000)] = 32_768
    tool_threads_max: Annotated[int, Field(ge=1, le=64)] = 4
    tool_grace_s: Annotated[float, Field(ge=0, le=600)] = 5.0
    tool_timeout_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    answer_calls_max: Annotated[int, Field(ge=1, le=1000)] = 64
    effects_wait_s: Annotated[float, Field(ge=0, le=600)] = 60.0
    in_doubt: Literal["fail", "retry"] = "fail"
    steps: Literal["all", "tools", "none"] = "tools"
    session: SessionRules = SessionRules()

    @field_validator("response_format")
    @classmethod
    def _is_a_schema_of_an_object(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            check_schema(schema)
        return schema

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if (self.kind == "structured") != (self.response_format is not None):
            message = "`response_format` is for the kind `structured`, which cannot do without"
            raise ValueError(message)
        if self.kind == "react" and not self.tools:
            message = "the kind `react` needs `tools`: name some, or take the kind `chat`"
            raise ValueError(message)
        if self.kind == "chat" and self.tools:
            message = "`tools` are for the kinds `react` and `structured`"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _has_declared_what_its_prompt_holds(self) -> Self:
        problem = prompt_problem(self.system_prompt, self.prompt_variables)
        if problem is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _has_tools_for_its_middlewares(self) -> Self:
        for named in self.middlewares:
            if isinstance(named, FOR_TOOLS) and not self.tools:
                message = f"the middleware {named.name!r} is for the kind `react`, with tools"
                raise ValueError(message)
        return self

    def written(self) -> dict[str, Any]:
        """Give its content as JSON values. A size that follows the model is not in it.

        Versions that knew no such sizes read the numbers there that they had before.
        """
        content = self.model_dump(mode="json")
        for fields, names in ((content, ("output_tokens_max",)), (content["memory"], SIZES)):
            for name in names:
                if name in fields and fields[name] is None:
                    del fields[name]
        return content

    @property
    def answer_tokens_max(self) -> int:
        """The most tokens that one model call writes: 256 where neither it nor a model says."""
        return OUTPUT_TOKENS if self.output_tokens_max is None else self.output_tokens_max

    @property
    def models_beside(self) -> tuple[str, ...]:
        """The models that its memory and its middlewares name for calls of their own."""
        named = [one.params.model for one in self.middlewares if isinstance(one, ToolSelector)]
        if isinstance(self.memory, Summary):
            named.append(self.memory.model)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def run_model_calls_max(self) -> int:
        """The most model calls of a run; only an agent with tools calls its model again."""
        return self.model_calls_max if self.tools else 1


BUILT_IN_TEMPLATES: tuple[AgentTemplate, ...] = (
    AgentTemplate(
        name="chat_agent",
        kind="chat",
        system_prompt="You are a helpful assistant. Answer briefly.",
    ),
    AgentTemplate(
        name="react_agent",
        kind="react",
        system_prompt="You are a helpful assistant. Use the tools where they help; answer briefly.",
        tools=("calculator", "current_time"),
    ),
    AgentTemplate(
        name="structured_agent",
        kind="structured",
        output_tokens_max=512,
        system_prompt=(
            "Answer with a JSON object: `answer` is the answer in a sentence, "
            "`keywords` are up to five words that say what it is about."
        ),
        response_format={
            "title": "Answer",
            "description": "An answer and what it is about",
            "type": "object",
            "properties": {
                # Bounded, so that the answer of a model that repeats itself still ends as JSON.
                "answer": {
                    "type": "string",
                    "maxLength": 200,
                    "description": "The answer in a sentence",
                },
                "keywords": {
                    "type": "array",
                    "items": {"type": "string", "maxLength": 20},
                    "maxItems": 5,
                    "description": "What it is about",
                },
            },
            "required": ["answer", "keywords"],
            "additionalProperties": False,
        },
    ),
)
