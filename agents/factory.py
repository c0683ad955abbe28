"""From a request to the agent that answers it: templates by name, agents by template."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import SystemMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from millstream.agents.loop.agent import Agent, AgentGraph, LoopAgent, SingleCallAgent
from millstream.agents.loop.call_gate import CallGate, ModelGate
from millstream.agents.loop.tools.tool_threads import ToolThreads
from millstream.agents.models.local.model import LocalChatModel
from millstream.agents.models.resolve import resolve_model
from millstream.agents.sessions.memory import BYTES_PER_TOKEN
from millstream.agents.templates.held_calls import AnswersInTheEnd
from millstream.agents.templates.structured import HeldByGrammar
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.templates.versions import OnTemplates, TemplateVersions
from millstream.agents.tools import ToolRegistry, built_in_tools
from millstream.schemas.errors import UnknownTemplate
from millstream.schemas.events import ResolvedRequest

__all__ = ["AgentFactory", "ResolveModel", "RunPlan"]

ResolveModel = Callable[..., BaseChatModel]
"""Gives the chat model of a name, made with keyword parameters such as `max_tokens`."""

# A request may name its model, so the number of pairs is up to upstreams.
AGENTS_CACHED_MAX: Final = 64

FRAME_TOKENS_MAX: Final = 16
"""Taken for what a chat's format puts around each message."""

TOOL_TOKENS_MIN: Final = 256
"""Taken at least for a tool's description, which goes with every call: else a token for a byte."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will use, known before it starts: its price can be reserved from this.

    `input_tokens_max` and `output_tokens_max` are for all of its model calls together. The former
    leaves out what tools give back, which nobody knows. `has_effects`: it has tools that may do
    what stays done. `models` are all that may answer, in order; `model` is the one that is called.
    """

    template: AgentTemplate
    model: str
    input_tokens_max: int
    output_tokens_max: int
    has_effects: bool = False
    models: tuple[str, ...] = ()

    @property
    def models_after(self) -> tuple[str, ...]:
        """The models that follow the one that is called."""
        return self.models[self.models.index(self.model) + 1 :] if self.models else ()


class AgentFactory:
    """Templates by name and version, and the agents made from them.

    An agent's graph takes milliseconds to build and holds no state of a run, so it is built once
    per template version and model and shared by all runs; the 64 most recently used are kept.
    `resolve` is what turns a model's name into a model.
    """

    def __init__(
        self,
        *,
        default_model: str = "local",
        templates: Iterable[AgentTemplate] = BUILT_IN_TEMPLATES,
        tools: ToolRegistry | None = None,
        resolve: ResolveModel = resolve_model,
    ) -> None:
        self.tools = ToolRegistry(built_in_tools()) if tools is None else tools
        self._default_model = default_model
        self._resolve = resolve
        self._templates = TemplateVersions()
        self._tools_tokens: dict[tuple[str, str], int] = {}
        # One for each version ever registered: as many as there are in the program's code.
        self._threads: dict[tuple[str, str], ToolThreads] = {}
        self._agents: OrderedDict[tuple[str, str, str], tuple[AgentTemplate, Agent]] = OrderedDict()
        for template in templates:
            self.register(template)

    def register(self, template: AgentTemplate) -> None:
        """Add a template, or another version of one: new runs of its name get it from now on.

        Raises `Misconfigured` if it names an unknown tool, or its version was given to other
        content: results record the version that they were made with.
        """
        self._register(template, replaces=False)

    def replace(self, template: AgentTemplate) -> None:
        """Add a template, in the place of what its version was before: for an app that is written.

        Runs of that version go on with the new content. Raises `Misconfigured` if it names an
        unknown tool.
        """
        self._register(template, replaces=True)

    def _register(self, template: AgentTemplate, *, replaces: bool) -> None:
        tools = self.tools.pick(template.tools)
        tokens = sum(map(_tool_tokens_max, tools))
        self._templates.add(template, replaces=replaces)
        self._tools_tokens[template.name, template.version] = tokens

    def keep(self, template: AgentTemplate) -> None:
        """Have a version for the runs that began with it, and for no new one.

        Raises as `register` does.
        """
        self.register(template)
        self.retire(template.name, template.version)

    def retire(self, name: str, version: str | None = None) -> None:
        """Give a template, or one version of it, to no new run; those that have begun keep it.

        Raises `UnknownTemplate` if it is not here.
        """
        self._templates.retire(name, version)

    def has(self, name: str, version: str | None = None) -> bool:
        """Tell whether a run can be planned: a new one, or one that began with `version`."""
        return self._templates.find(name, version) is not None

    @property
    def offers(self) -> frozenset[tuple[str, str]]:
        """The name and version of each template that is here, retired ones too."""
        return self._templates.offers()

    @property
    def names(self) -> tuple[str, ...]:
        """The names that new runs may ask for, in order."""
        return self._templates.names()

    def on_change(self, listener: OnTemplates) -> Callable[[], None]:
        """Call `listener` whenever templates were added or retired; gives what ends that."""
        return self._templates.on_change(listener)

    def twin(self, resolve: ResolveModel) -> AgentFactory:
        """Give a factory of the same templates and tools, now and later, for another event loop.

        Models, with their connections, and threads of tools belong to one loop.
        """
        twin = AgentFactory(
            default_model=self._default_model, templates=(), tools=self.tools, resolve=resolve
        )
        twin._templates = self._templates
        twin._tools_tokens = self._tools_tokens
        return twin

    def list(self) -> tuple[AgentTemplate, ...]:
        """Give the newest version of each template, in order of their names."""
        return self._templates.newest()

    def template(self, name: str, version: str | None = None) -> AgentTemplate:
        """Give a template: the version named, else the newest.

        Raises `UnknownTemplate` that lists the known ones.
        """
        template = self._templates.find(name, version)
        if template is None:
            raise UnknownTemplate(self._templates.missing(name, version))
        return template

    def plan(self, request: ResolvedRequest, version: str | None = None) -> RunPlan:
        """Say what a request's run will use, by the `version` that it began with, else the newest.

        Raises `UnknownTemplate` that lists the known ones.
        """
        template = self.template(request.template, version)
        model = request.model or template.model or self._default_model
        return RunPlan(
            template=template,
            model=model,
            models=tuple(dict.fromkeys((model, *template.fallback_models))),
            output_tokens_max=template.output_tokens_max * template.run_model_calls_max,
            input_tokens_max=_input_tokens_max(
                template, request.input, self._tools_tokens[template.name, template.version]
            ),
            has_effects=any(self.tools.rules(name).has_effects for name in template.tools),
        )

    def create(self, plan: RunPlan) -> Agent:
        """Give the agent of a plan. Raises `ModelUnavailable` where its model cannot be used."""
        key = (plan.template.name, plan.template.version, plan.model)
        template, agent = self._agents.get(key, (None, None))
        if agent is None or template is not plan.template:  # a version may have been replaced
            agent = self._built(plan)
            self._agents[key] = (plan.template, agent)
            if len(self._agents) > AGENTS_CACHED_MAX:
                self._agents.popitem(last=False)
        else:
            self._agents.move_to_end(key)
        return agent

    @property
    def tool_threads_lost(self) -> int:
        """How many threads of tools outlived their calls and still run."""
        return sum(threads.lost for threads in self._threads.values())

    def _threaded_tools(self, template: AgentTemplate) -> tuple[BaseTool, ...]:
        if not template.tools:
            return ()
        key = (template.name, template.version)
        threads = self._threads.get(key)
        if threads is None:
            threads = self._threads[key] = ToolThreads(
                template.name, threads_max=template.tool_threads_max, grace_s=template.tool_grace_s
            )
        return tuple(threads.threaded(tool) for tool in self.tools.pick(template.tools))

    def _built(self, plan: RunPlan) -> Agent:
        template = plan.template
        model = self._resolve(plan.model, max_tokens=template.output_tokens_max)
        schema = template.response_format
        # Held to a schema directly, and not by the call of a tool, as LangChain does it.
        by_grammar = isinstance(model, LocalChatModel)
        calls_max = template.run_model_calls_max
        middleware: list[AgentMiddleware[Any, Any, Any]] = []
        if template.tools:
            results_max = template.tool_result_bytes_max
            gate = CallGate(self.tools, model_calls_max=calls_max, result_bytes_max=results_max)
            middleware.append(gate)
            if by_grammar:
                middleware.append(AnswersInTheEnd(model_calls_max=calls_max))
        elif schema:
            middleware.append(ModelGate(model_calls_max=calls_max))
        if schema and by_grammar:
            middleware.append(HeldByGrammar(schema))
        graph: AgentGraph = create_agent(
            model,
            self._threaded_tools(template),
            system_prompt=template.system_prompt,
            middleware=middleware,
            response_format=None if by_grammar else schema,
        )
        if template.tools or schema:
            return LoopAgent(graph)
        prompt = template.system_prompt
        return SingleCallAgent(graph, model, None if prompt is None else SystemMessage(prompt))


def _tool_tokens_max(tool: BaseTool) -> int:
    return max(TOOL_TOKENS_MIN, len(str(convert_to_openai_tool(tool)).encode(errors="replace")))


def _input_tokens_max(template: AgentTemplate, text: str, tools_tokens: int) -> int:
    """Give the most tokens that the model calls of a run may read: no token is less than a byte."""
    schema = "" if template.response_format is None else json.dumps(template.response_format)
    turns = template.memory_turns_max
    read_each_time = (
        sum(
            len(words.encode(errors="replace"))
            for words in (text, template.system_prompt or "", schema)
        )
        + (template.memory_tokens_max * BYTES_PER_TOKEN if turns else 0)
        + FRAME_TOKENS_MAX * (2 * turns + 2)
        + tools_tokens
    )
    calls = template.run_model_calls_max
    # A call reads again what the calls before it wrote.
    read_again = template.output_tokens_max * calls * (calls - 1) // 2
    return calls * read_each_time + read_again
