"""The agents of a worker, on event loops that are not the lanes', and what they take from Redis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from weakref import WeakSet

import structlog

from millstream.agents.executor import AgentExecutor, RunAgent
from millstream.agents.factory import AgentFactory, ResolveModel
from millstream.agents.hosting.agents_loop import AgentsOfLoop, BuildAgents, Threads
from millstream.agents.hosting.blocked import Blocked
from millstream.agents.hosting.host import AgentHost, HostLimits
from millstream.agents.loop.telling.listeners import Listeners
from millstream.agents.loop.telling.statistics import NAMES_MAX, OTHER, CountTool, Statistics
from millstream.agents.mcp.tools import McpTools
from millstream.agents.models.http import ProviderHttp
from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.events import CheckpointSaved
from millstream.schemas.ports import PeekCheckpoint
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.telemetry.outages import REDIS

__all__ = ["agent_host", "count_mcp_servers", "peek_in"]

log = structlog.get_logger(__name__)

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
    listeners: Listeners | None = None,
) -> AgentHost:
    """Make the host of a worker's agents, and declare its figures; to be closed by who made it.

    Each loop has a factory and HTTP clients of its own, and models by `resolve`. `run_agent` stands
    in for the agents; `threads` gives loops their threads. `drain` is called when blocked loops
    leave no way but for the worker to end.
    """
    listeners = Listeners() if listeners is None else listeners
    loops = _Loops(settings, factory, resolve, listeners, _tool_counter(factory, collector))
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
    _watch(listeners, collector)
    return host


def count_mcp_servers(tools: McpTools, collector: MetricsCollector) -> None:
    """Declare the figure of MCP servers that cannot be used."""
    collector.gauge(
        "millstream_mcp_servers_unavailable",
        "MCP servers of the app that cannot be used now: their tools fail.",
    ).set_function(lambda: sum(one.problem is not None for one in tools.status()))


class _Loops:
    """Makes the agents of each loop."""

    def __init__(
        self,
        settings: Settings,
        factory: AgentFactory,
        resolve: ResolveModel,
        listeners: Listeners,
        count_tool: CountTool,
    ) -> None:
        self._coalesce_s = settings.token_coalesce_s
        self._resolve = resolve
        self._factory = factory
        self._listeners = listeners
        self._count_tool = count_tool
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
        executor = AgentExecutor(
            twin,
            coalesce_s=self._coalesce_s,
            listeners=self._listeners,
            statistics=Statistics(count_tool=self._count_tool),
        )
        return AgentsOfLoop(executor.run, http.close)


def _tool_counter(factory: AgentFactory, collector: MetricsCollector) -> CountTool:
    """Declare the figures of tools, and give what counts a call.

    Models make up names; only tools that are registered are counted by theirs, and of these so
    many: each name is a series of its own in whatever collects the metrics.
    """
    calls = collector.counter(
        "millstream_tool_calls_total", "Calls of tools that ended.", ("tool", "outcome")
    )
    seconds = collector.counter(
        "millstream_tool_seconds_total", "How long calls of tools took, in all.", ("tool",)
    )
    named: set[str] = set()

    def count(tool: str, outcome: str, took_s: float) -> None:
        if tool not in named:
            if len(named) < NAMES_MAX and tool in factory.tools.names():
                named.add(tool)
            else:
                tool = OTHER
        calls.labels(tool=tool, outcome=outcome).inc()
        seconds.labels(tool=tool).inc(took_s)

    return count


def _watch(listeners: Listeners, collector: MetricsCollector) -> None:
    """Read the figures of listeners at each scrape."""
    dropped = collector.gauge(
        "millstream_listener_events_dropped",
        "Events that a listener had no room for, since the start.",
        ("listener",),
    )
    failed = collector.gauge(
        "millstream_listener_failures",
        "Events that a listener failed on, since the start.",
        ("listener",),
    )
    for name in listeners.dropped:
        dropped.labels(listener=name).set_function(partial(_of, listeners, "dropped", name))
        failed.labels(listener=name).set_function(partial(_of, listeners, "failed", name))


def _of(listeners: Listeners, figure: str, name: str) -> float:
    figures: dict[str, int] = getattr(listeners, figure)
    return figures[name]


def peek_in(store: RedisSessionStore) -> PeekCheckpoint:
    """Give what looks a session's checkpoint up in the session view, `None` where it is away."""

    async def peek(tenant: str, user_id: str, session_id: str) -> CheckpointSaved | None:
        try:
            stored = await store.get_checkpoint(tenant, user_id, session_id)
        except ServiceUnavailable as error:
            # Redis is a view: the log has the checkpoint.
            log.warning("Redis was passed over", reason=str(error), outage=REDIS)
            return None
        return None if stored is None else stored.event

    return peek
