"""From a request to the agent that answers it: templates by name, agents by template."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import SystemMessage
from langchain_core.tools import BaseTool

from millstream.agents.loop.agent import Agent, AgentGraph, LoopAgent, SingleCallAgent
from millstream.agents.loop.call_gate import CallGate
from millstream.agents.loop.model_gate import ModelGate
from millstream.agents.loop.tools.tool_threads import ToolThreads
from millstream.agents.middlewares.beside import BesideModel
from millstream.agents.middlewares.build import (
    MiddlewareFactory,
    build_middlewares,
    check_names,
    own_middlewares,
)
from millstream.agents.middlewares.summary_memory import SummaryMemory
from millstream.agents.middlewares.worst_case import (
    WorstCase,
    steps_beside,
    tools_beside,
    worst_case,
)
from millstream.agents.models.known.windows import WindowOf, window_of
from millstream.agents.models.local.model import LocalChatModel
from millstream.agents.models.media.takes import takes_of
from millstream.agents.models.media.tokens import tokens_max
from millstream.agents.models.resolve import resolve_model
from millstream.agents.run_plan import RunPlan
from millstream.agents.templates.held_calls import AnswersInTheEnd
from millstream.agents.templates.memory import NoMemory, Summary
from millstream.agents.templates.prompt import filled_prompt
from millstream.agents.templates.sizes import Sizes, fitted, sizes_of
from millstream.agents.templates.structured import HeldByGrammar
from millstream.agents.templates.template import (
    BUILT_IN_TEMPLATES,
    AgentTemplate,
    named,
)
from millstream.agents.templates.versions import OnTemplates, TemplateVersions
from millstream.agents.tools import ToolRegistry, built_in_tools
from millstream.schemas.base import Usage
from millstream.schemas.content import InputKind
from millstream.schemas.errors import UnknownTemplate
from millstream.schemas.events import ResolvedRequest

__all__ = ["AgentFactory", "ResolveModel", "RunPlan"]

ResolveModel = Callable[..., BaseChatModel]
"""Gives the chat model of a name, made with keyword parameters such as `max_tokens`."""

# A request may name its model, so the number of pairs is up to upstreams.
AGENTS_CACHED_MAX: Final = 64

SIZES_KEPT_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class _Uses:
    """What all runs of a template with the same sizes use, whatever their input.

    `template` is the template with these sizes; `at_first` is for the first run of a session, which
    has nothing to remember.
    """

    template: AgentTemplate
    tool_names: tuple[str, ...]
    at_most: WorstCase
    at_first: WorstCase


@dataclass(frozen=True, slots=True)
class _Made:
    """An agent as it was built: of which template, and what its model takes beside text."""

    template: AgentTemplate
    agent: Agent
    takes: frozenset[InputKind]


class AgentFactory:
    """Templates by name and version, and the agents made from them.

    An agent's graph takes milliseconds to build and holds no state of a run, so it is built once
    per template version and model and shared by all runs; the 64 most recently used are kept.
    `resolve` is what turns a model's name into a model, `windows` into what it reads and writes: by
    that the sizes are chosen which a template does not name. `middlewares` makes what templates
    name besides LangChain's own: a LangChain `AgentMiddleware`, from a template's parameters.
    """

    def __init__(
        self,
        *,
        default_model: str = "local",
        templates: Iterable[AgentTemplate] = BUILT_IN_TEMPLATES,
        tools: ToolRegistry | None = None,
        resolve: ResolveModel = resolve_model,
        middlewares: Mapping[str, MiddlewareFactory] | None = None,
        windows: WindowOf = window_of,
    ) -> None:
        self._middlewares = check_names(middlewares or {})
        self.tools = ToolRegistry(built_in_tools()) if tools is None else tools
        self._default_model = default_model
        self._resolve = resolve
        self._windows = windows
        self._templates = TemplateVersions()
        # By sizes, with the generation of the tools that they were worked out with.
        self._uses: dict[tuple[str, str], tuple[int, dict[Sizes, _Uses]]] = {}
        # One for each version ever registered: as many as there are in the program's code.
        self._threads: dict[tuple[str, str], ToolThreads] = {}
        self._agents: OrderedDict[tuple[str, str, str, Sizes, int], _Made] = OrderedDict()
        for template in templates:
            self.register(template)

    def register(self, template: AgentTemplate) -> None:
        """Add a template, or another version of one: new runs of its name get it from now on.

        Raises `Misconfigured` if it names an unknown tool or middleware, or its version was given
        to other content: results record the version that they were made with.
        """
        self._register(template, replaces=False)

    def replace(self, template: AgentTemplate) -> None:
        """Add a template, in the place of what its version was before: for an app that is written.

        Runs of that version go on with the new content. Raises `Misconfigured` if it names an
        unknown tool or middleware.
        """
        self._register(template, replaces=True)

    def _register(self, template: AgentTemplate, *, replaces: bool) -> None:
        generation, sizes = self.tools.generation, self._sizes(template)
        uses = self._worked_out(template, sizes)
        if self._templates.add(template, replaces=replaces):
            self._uses[template.name, template.version] = (generation, {sizes: uses})

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

    def has(self, name: str, version: str | None = None, tools: Iterable[str] = ()) -> bool:
        """Tell whether a run can be planned: a new one, or one that began with `version`.

        One that has called `tools` needs those of its template, and each of them there.
        """
        template = self._templates.find(name, version)
        return template is not None and not self.missing(template, tools)

    def missing(self, template: AgentTemplate, tools: Iterable[str]) -> tuple[str, ...]:
        """Give those of `tools` that a template has not, or that are not there now."""
        wanted = tuple(tools)
        if not wanted:
            return ()
        there = self._tool_names(template.name, template.version) - self.tools.absent
        return tuple(one for one in wanted if one not in there)

    @property
    def offers(self) -> frozenset[tuple[str, str]]:
        """The name and version of each template that is here with its tools, retired ones too."""
        offered = self._templates.offers()
        if not (absent := self.tools.absent):
            return offered
        return frozenset(one for one in offered if not absent & self._tool_names(*one))

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
            default_model=self._default_model,
            templates=(),
            tools=self.tools,
            resolve=resolve,
            middlewares=self._middlewares,
            windows=self._windows,
        )
        twin._templates, twin._uses = self._templates, self._uses
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

        Raises `UnknownTemplate` that lists the known ones, and `PromptVariableRefused` that names
        what the request's metadata lacks.
        """
        template = self.template(request.template, version)
        own = self._resolved(template.models)
        models = tuple(dict.fromkeys((request.model or own[0], *own[1:])))
        sizes = self._sizes(template, models)
        uses = self._uses_of(template, sizes)
        # A request that names no session begins one of its own id.
        is_first = request.session_id == request.request_id
        most = uses.at_first if is_first else uses.at_most
        told_bytes = len(request.input.encode(errors="replace"))
        if request.content is not None:
            told_bytes += sum(map(tokens_max, request.content))
        input_tokens_max = most.input_tokens_max + most.tokens_per_input_byte * told_bytes
        system_prompt = None
        if template.prompt_variables:
            written = template.system_prompt or ""
            system_prompt = filled_prompt(written, template.prompt_variables, request.metadata)
            longer = len(system_prompt.encode(errors="replace")) - len(
                written.encode(errors="replace")
            )
            input_tokens_max += template.run_model_calls_max * longer
            told_bytes += longer
        read, wrote = most.first_call
        return RunPlan(
            template=uses.template,
            model=models[0],
            models=models,
            models_own=own,
            models_beside=self._resolved(template.models_beside),
            calls_beside=most.calls_beside,
            output_tokens_max=most.output_tokens_max,
            input_tokens_max=input_tokens_max,
            first_call=Usage(input_tokens=read + told_bytes, output_tokens=wrote),
            effects=tuple(one for one in uses.tool_names if self.tools.rules(one).has_effects),
            tools=uses.tool_names,
            system_prompt=system_prompt,
            sizes=sizes,
        )

    def _sizes(self, template: AgentTemplate, models: Sequence[str] | None = None) -> Sizes:
        """Give what suits the models of a run, or of one whose request names none."""
        return sizes_of(template, self._windows, default=self._default_model, models=models)

    def _uses_of(self, template: AgentTemplate, sizes: Sizes) -> _Uses:
        key = (template.name, template.version)
        generation, known = self._uses[key]
        if generation != self.tools.generation:
            generation, known = self._uses[key] = (self.tools.generation, {})
        if (uses := known.get(sizes)) is None:
            if len(known) >= SIZES_KEPT_MAX:
                known.clear()
            uses = known[sizes] = self._worked_out(template, sizes)
        return uses

    def _tool_names(self, name: str, version: str) -> frozenset[str]:
        template = self.template(name, version)
        return frozenset(self._uses_of(template, self._sizes(template)).tool_names)

    def _worked_out(self, template: AgentTemplate, sizes: Sizes) -> _Uses:
        own = own_middlewares(template, self._middlewares)
        tools = (
            *self.tools.pick(template.tools),
            *tools_beside(template),
            *(tool for one in own for tool in getattr(one, "tools", ())),
        )
        whole = fitted(template, sizes)
        return _Uses(
            template=whole,
            tool_names=tuple(tool.name for tool in tools),
            at_most=worst_case(whole, tools),
            at_first=worst_case(whole.model_copy(update={"memory": NoMemory()}), tools),
        )

    def _resolved(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return named(names, self._default_model)

    def create(self, plan: RunPlan) -> Agent:
        """Give the agent of a plan. Raises `ModelUnavailable` where its model cannot be used."""
        return self._made(plan).agent

    def takes(self, plan: RunPlan) -> frozenset[InputKind]:
        """Give what the model of a plan takes beside text. Raises as `create` does."""
        return self._made(plan).takes

    def _made(self, plan: RunPlan) -> _Made:
        # With a tool that was replaced, it is another agent.
        version = (plan.template.name, plan.template.version)
        key = (*version, plan.model, plan.sizes, self.tools.generation)
        made = self._agents.get(key)
        if made is None or made.template is not plan.template:  # a version may have been replaced
            made = self._agents[key] = self._built(plan)
            if len(self._agents) > AGENTS_CACHED_MAX:
                self._agents.popitem(last=False)
        else:
            self._agents.move_to_end(key)
        return made

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
        tools: list[BaseTool] = []
        for tool in self.tools.pick(template.tools):
            rules = self.tools.rules(tool.name)
            timeout_s = rules.timeout_s or template.tool_timeout_s
            tools.append(threads.threaded(tool, timeout_s=timeout_s, lets_go=not rules.has_effects))
        return tuple(tools)

    def _built(self, plan: RunPlan) -> _Made:
        template = plan.template
        model = self._resolve(plan.model, max_tokens=template.answer_tokens_max)
        schema = template.response_format
        # Held to a schema directly, and not by the call of a tool, as LangChain does it.
        by_grammar = isinstance(model, LocalChatModel)
        calls_max = template.run_model_calls_max
        named = self._named_middlewares(plan)
        middleware: list[AgentMiddleware[Any, Any, Any]] = []
        if template.tools:
            gate = CallGate(self.tools, template, schema=schema, bounds_run=bool(named))
            middleware.append(gate)
            if by_grammar:
                middleware.append(AnswersInTheEnd(model_calls_max=calls_max))
        elif schema or named:
            middleware.append(ModelGate(model_calls_max=calls_max, schema=schema))
        # Within the gate: what it keeps of a call is what they made of it.
        middleware.extend(named)
        if schema and by_grammar:
            middleware.append(HeldByGrammar(schema))
        graph: AgentGraph = create_agent(
            model,
            self._threaded_tools(template),
            system_prompt=template.system_prompt,
            middleware=middleware,
            response_format=None if by_grammar else schema,
        )
        if template.tools or schema or named:
            beside = steps_beside(graph, calls_max) if named else None
            return _Made(template, LoopAgent(graph, steps_beside=beside), takes_of(model))
        prompt = template.system_prompt
        said = None if prompt is None else SystemMessage(prompt)
        return _Made(template, SingleCallAgent(graph, model, said), takes_of(model))

    def _named_middlewares(self, plan: RunPlan) -> Sequence[AgentMiddleware[Any, Any, Any]]:
        template = plan.template
        if not template.middlewares and not isinstance(template.memory, Summary):
            return ()

        def resolve(name: str | None, tokens_max: int) -> BaseChatModel:
            (called,) = self._resolved((name or plan.model,))
            return self._resolve(called, max_tokens=tokens_max)

        built = build_middlewares(template, self._middlewares, resolve)
        memory = template.memory
        if isinstance(memory, Summary):
            writer = resolve(memory.model, memory.summary_tokens)
            built.insert(0, SummaryMemory(memory, BesideModel(model=writer, named=memory.model)))
        return built
