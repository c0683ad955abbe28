"""An app: the agents, tools, layers and models that a team brings, as one value.

An app is made as its file is imported, so making one raises nothing. What is wrong with it is told
all at once, where the app is to be used (`checks.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millstream.agents.factory import AgentFactory
from millstream.agents.loop.telling.listeners import Listener, OnEvent
from millstream.agents.mcp.server import McpServer
from millstream.agents.mcp.tools import McpTools
from millstream.agents.middlewares.build import MiddlewareFactory
from millstream.agents.models.resolve import MakeModel
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import AnyTool, ToolRegistry, built_in_tools
from millstream.middleware.pipeline import MakeLayer
from millstream.schemas.endpoints import ModelEndpoint

__all__ = ["App", "AppParts"]


class App:
    """What a worker runs beside what is built in.

    Args:
        name: What the app is called in logs, up to 64 characters.
        templates: Its agents: `AgentTemplate`s, and paths of YAML files with one each. A relative
            path begins in the folder of the file that makes the app. Of several versions of one
            name new runs get the last one; the others are there for runs that began with them.
        tools: What templates may name in `tools`: plain functions, LangChain's tools, and those
            that are declared with `millstream.tool` or `millstream.declared`.
        mcp_servers: MCP servers whose tools templates may name, `McpServer`s.
        layers: Classes or functions that make a layer of the chain, an `AgentMiddleware`; each
            lane makes one for itself, without arguments.
        listeners: Functions that are told of what happens in runs, each a `CallbackEvent`, or
            `Listener`s, which limit that; none of them can slow down or fail a run.
        models: Models by the names that templates and requests use: a function that makes a
            LangChain chat model of keyword parameters such as `max_tokens`, or a `ModelEndpoint`.
        agent_middlewares: Classes or functions that make a LangChain `AgentMiddleware` of a
            template's parameters, by the names that templates use in `middlewares`.
        policy: The path of its policy, where no setting names one.
        built_in: Whether it has Millstream's own templates and tools too.
    """

    def __init__(
        self,
        name: str,
        *,
        templates: Iterable[AgentTemplate | str | Path] = (),
        tools: Iterable[AnyTool] = (),
        mcp_servers: Iterable[McpServer] = (),
        layers: Iterable[MakeLayer] = (),
        listeners: Iterable[Listener | OnEvent] = (),
        models: Mapping[str, MakeModel | ModelEndpoint | Mapping[str, Any]] | None = None,
        agent_middlewares: Mapping[str, MiddlewareFactory] | None = None,
        policy: str | Path | None = None,
        built_in: bool = True,
    ) -> None:
        self.name = name
        self.templates = templates
        self.tools = tools
        self.mcp_servers = mcp_servers
        self.layers = layers
        self.listeners = listeners
        self.models = {} if models is None else models
        self.agent_middlewares = {} if agent_middlewares is None else agent_middlewares
        self.policy = policy
        self.built_in = built_in
        self.file = Path(sys._getframe(1).f_globals.get("__file__") or "app.py")  # noqa: SLF001
        """The file that makes the app."""

    def __repr__(self) -> str:
        """Name the app and its file."""
        return f"<App {self.name!r} of {self.file}>"


@dataclass(frozen=True, slots=True)
class AppParts:
    """What a worker takes from an app that has no mistakes.

    Attributes:
        name: What the app is called.
        templates: Its agents, and those that are built in.
        tools: The registry that they draw from.
        mcp: Its MCP servers, to be opened with the registry, and closed.
        layers: Make its layers of the chain, for each lane anew.
        listeners: Are told of its runs.
        models: Make its models, by their names.
        endpoints: Servers of its models, by the names of what they serve.
        agent_middlewares: Make the middlewares that its templates name besides LangChain's own.
        policy_file: Its policy, `None` where it has none.
    """

    name: str = "millstream"
    templates: tuple[AgentTemplate, ...] = BUILT_IN_TEMPLATES
    tools: ToolRegistry = field(default_factory=lambda: ToolRegistry(built_in_tools()))
    mcp: McpTools = field(default_factory=lambda: McpTools((), environment={}))
    layers: tuple[MakeLayer, ...] = ()
    listeners: tuple[Listener, ...] = ()
    models: Mapping[str, MakeModel] = field(default_factory=dict)
    endpoints: Mapping[str, ModelEndpoint] = field(default_factory=dict)
    agent_middlewares: Mapping[str, MiddlewareFactory] = field(default_factory=dict)
    policy_file: Path | None = None

    def factory(self, **given: Any) -> AgentFactory:
        """Make the factory of its agents; what is given goes to `AgentFactory`.

        Of several versions of a name the last one is for new runs.
        """
        newest = {template.name: template for template in self.templates}
        factory = AgentFactory(
            templates=newest.values(),
            tools=self.tools,
            middlewares=self.agent_middlewares,
            **given,
        )
        for template in self.templates:
            if template is not newest[template.name]:
                factory.keep(template)
        return factory
