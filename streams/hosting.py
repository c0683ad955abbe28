"""The agents of a worker, on event loops that are not the lanes'."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from weakref import WeakSet

from millstream.agents.executor import AgentExecutor, RunAgent
from millstream.agents.factory import AgentFactory, ResolveModel
from millstream.agents.hosting.agents_loop import AgentsOfLoop, BuildAgents, Threads
from millstream.agents.hosting.blocked import Blocked
from millstream.agents.hosting.host import AgentHost, HostLimits
from millstream.agents.mcp.tools import McpTools
from millstream.agents.models.http import ProviderHttp
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector

__all__ = ["agent_host", "count_mcp_servers"]

_UNKNOWN = "unknown"
_NO_TOOL = "none"


def agent_host(
    settings: Settings,
    factory: AgentFactory,
    resolve: ResolveModel,
    collector: MetricsCollector,
    *,
    run_agent: RunAgent | None = None,
    threads: Threads | None = None,
    drain: Callable[[], None],
) -> AgentHost:
    """Make the host of a worker's agents, and declare its figures; to be closed by who made it.

    Each loop has a factory and HTTP clients of its own, and models by `resolve`. `run_agent` stands
    in for the agents; `threads` gives loops their threads. `drain` is called when blocked loops
    leave no way but for the worker to end.
    """
    loops = _Loops(settings, factory, resolve)
    blocked = collector.counter(
        "millstream_agents_blocked_total",
        "Times that code of an agent kept the event loop from turning.",
        ("template", "tool"),
    )

    def count(what: Blocked) -> None:
        template, tool = what.template or _UNKNOWN, what.tool or _NO_TOOL
        blocked.labels(template=template, tool=tool).inc()

    build: BuildAgents = loops.build
    if run_agent is not None:
        build = partial(AgentsOfLoop, run_agent)
    host = AgentHost(
        build,
        limits=HostLimits(
            warn_s=settings.agents_blocked_warn_s, blocked_max_s=settings.agents_blocked_max_s
        ),
        threads=threads,
        on_blocked=count,
        on_stuck=drain,
    )
    collector.gauge(
        "millstream_agents_loops_given_up",
        "Event loops of agents that were given up, since code blocks them, and have not ended.",
    ).set_function(lambda: host.given_up)
    collector.gauge(
        "millstream_tool_threads_lost",
        "Threads of tools that outlived their calls' time and still run.",
    ).set_function(lambda: loops.tool_threads_lost)
    return host


def count_mcp_servers(tools: McpTools, collector: MetricsCollector) -> None:
    """Declare the figure of MCP servers that cannot be used."""
    collector.gauge(
        "millstream_mcp_servers_unavailable",
        "MCP servers of the app that cannot be used now: their tools fail.",
    ).set_function(lambda: sum(one.problem is not None for one in tools.status()))


class _Loops:
    """Makes the agents of each loop."""

    def __init__(self, settings: Settings, factory: AgentFactory, resolve: ResolveModel) -> None:
        self._coalesce_s = settings.token_coalesce_s
        self._resolve = resolve
        self._factory = factory
        self._twins: WeakSet[AgentFactory] = WeakSet()

    @property
    def tool_threads_lost(self) -> int:
        """How many threads of tools outlived their calls and still run."""
        return sum(twin.tool_threads_lost for twin in self._twins)

    def build(self) -> AgentsOfLoop:
        """Make what runs attempts on one loop."""
        http = ProviderHttp()
        twin = self._factory.twin(partial(self._resolve, http=http))
        self._twins.add(twin)
        return AgentsOfLoop(AgentExecutor(twin, coalesce_s=self._coalesce_s).run, http.close)
