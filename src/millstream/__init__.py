"""Millstream: an event-driven runtime for LLM agents on Apache Kafka.

The packages are the folders `agents`, `gateway`, `infra`, `middleware`, `schemas` and `streams` of
the repository, linked here: see docs/decisions/0018-one-import-name.md. What apps are written with
can be imported from here, and is loaded when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from millstream.version import __version__

if TYPE_CHECKING:
    from millstream.agents.loop.telling.events import CallbackEvent
    from millstream.agents.loop.telling.listeners import Listener
    from millstream.agents.mcp.server import McpServer
    from millstream.agents.templates.template import AgentTemplate
    from millstream.agents.tools import NOT_MADE, Caller, declared, tool
    from millstream.middleware.base import AgentMiddleware, MiddlewareContext, MiddlewareResult
    from millstream.schemas.base import Event
    from millstream.schemas.endpoints import ModelEndpoint
    from millstream.schemas.errors import Forbidden, RateLimited, Rejected
    from millstream.schemas.events import AgentResult, Decision
    from millstream.streams.apps.app import App
    from millstream.streams.apps.memory import AgentRun, InMemoryApp, arun_agent, run_agent

__all__ = [
    "NOT_MADE",
    "AgentMiddleware",
    "AgentResult",
    "AgentRun",
    "AgentTemplate",
    "App",
    "CallbackEvent",
    "Caller",
    "Decision",
    "Event",
    "Forbidden",
    "InMemoryApp",
    "Listener",
    "McpServer",
    "MiddlewareContext",
    "MiddlewareResult",
    "ModelEndpoint",
    "RateLimited",
    "Rejected",
    "__version__",
    "arun_agent",
    "declared",
    "run_agent",
    "tool",
]

_HOMES = {
    "NOT_MADE": "agents.tools",
    "CallbackEvent": "agents.loop.telling.events",
    "Listener": "agents.loop.telling.listeners",
    "Caller": "agents.tools",
    "declared": "agents.tools",
    "tool": "agents.tools",
    "AgentMiddleware": "middleware.base",
    "AgentResult": "schemas.events",
    "AgentRun": "streams.apps.memory",
    "AgentTemplate": "agents.templates.template",
    "App": "streams.apps.app",
    "Decision": "schemas.events",
    "Event": "schemas.base",
    "Forbidden": "schemas.errors",
    "InMemoryApp": "streams.apps.memory",
    "McpServer": "agents.mcp.server",
    "MiddlewareContext": "middleware.base",
    "MiddlewareResult": "middleware.base",
    "ModelEndpoint": "schemas.endpoints",
    "RateLimited": "schemas.errors",
    "Rejected": "schemas.errors",
    "arun_agent": "streams.apps.memory",
    "run_agent": "streams.apps.memory",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
