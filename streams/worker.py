"""The composition root of a worker process: builds everything once and passes it inward."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog
from aiokafka.errors import KafkaError

from millstream.agents.circuits import ModelCircuits
from millstream.agents.executor import RunAgent
from millstream.agents.factory import ResolveModel
from millstream.agents.hosting.agents_loop import Threads
from millstream.agents.hosting.host import AgentHost
from millstream.agents.loop.telling.listeners import Listeners
from millstream.agents.loop.telling.run_states import log_illegal
from millstream.agents.models.resolve import keep_traces_local, warm_up
from millstream.middleware.pipeline import MiddlewarePipeline, build_pipeline
from millstream.middleware.policy import Policy
from millstream.middleware.prices import FREE_MODELS
from millstream.schemas.errors import MillstreamError, Misconfigured, Terminal
from millstream.schemas.ports import wall_clock_ms
from millstream.streams.allocation import map_large_blocks
from millstream.streams.apps.app import AppParts
from millstream.streams.apps.checks import resolving, windows
from millstream.streams.broker.clients import idempotent_producer, not_reached
from millstream.streams.broker.diagnosis.features import require_transactions
from millstream.streams.broker.diagnosis.reach import require_reach
from millstream.streams.broker.renewed_producer import RenewedProducer
from millstream.streams.broker.rights.watch import RightsWatch, require_topics
from millstream.streams.broker.security.live import live_security
from millstream.streams.consumer.recent_gaps import RecentGaps
from millstream.streams.hosting import agent_host, count_mcp_servers, peek_in
from millstream.streams.lane.base.context import LaneServices, Stage, stages
from millstream.streams.lane.base.metrics import LaneMetrics
from millstream.streams.lane.lanes import Lanes
from millstream.streams.policy_file import load_policy, tell_of_templates_for_nobody
from millstream.streams.renewal import Renewed
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Role, Settings
from millstream.streams.shutdown import stop_parts
from millstream.streams.telemetry.exposition import Exposition, Readiness
from millstream.streams.telemetry.metrics import MetricsCollector, set_metrics
from millstream.streams.telemetry.outages import UnreadyLog
from millstream.streams.telemetry.process import tell_of_process
from millstream.streams.templates.follower import TemplateFollower
from millstream.streams.views.service import Views
from millstream.streams.views.table_metrics import Shown

log = structlog.get_logger(__name__)

T = TypeVar("T")

_WATCH_INTERVAL_S = 0.25
_OBJECTS_PER_COLLECTION = 400_000
_PRODUCER_STOP_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself once it serves; `metrics_url` is where it is scraped.

    `policy_digest` stands for the policy that it goes by.
    """

    name: str
    roles: frozenset[Role]
    metrics_url: str
    policy_digest: str


class WorkerCrashed(MillstreamError):
    """A part of the worker stopped by itself; whoever runs workers starts another one."""

    code = "worker_crashed"


async def run_worker(
    settings: Settings,
    roles: frozenset[Role],
    *,
    ready: Callable[[WorkerInfo], None],
    stop: asyncio.Event,
    run_agent: RunAgent | None = None,
    threads: Threads | None = None,
    app: AppParts | None = None,
) -> None:
    """Work in `roles` until `stop` is set; `ready` is called once requests are served.

    `run_agent` stands in for the agents, to measure what is around them. `threads` gives the
    agents' event loops their threads; without it, each has one of its own. Without an `app` there
    is what is built in.

    Raises `Misconfigured`, `TopicDrift` or `ServiceUnavailable` where it cannot start, and
    `WorkerCrashed` if a part of it stops by itself; nothing once `stop` is set.
    """
    keep_traces_local()
    map_large_blocks()
    name = f"{socket.gethostname()}-{os.getpid()}"
    try:
        async with AsyncExitStack() as stack:
            building = _build(
                settings,
                roles,
                name,
                stack,
                app=app or AppParts(),
                run_agent=run_agent,
                threads=threads,
                drain=stop.set,
            )
            worker = await _unless(stop, building)
            if worker is None:
                log.info("worker is told to end before it is up", worker=name)
                return
            log.info(
                "worker started",
                worker=name,
                roles=sorted(roles),
                kafka=settings.kafka,
                policy=worker.info.policy_digest,
                policy_file=str(settings.policy_file or (app and app.policy_file) or "none"),
            )
            await _watch(worker, ready, stop)
            log.info("worker stops", worker=name)
    # Clients raise anything where no broker answers. What was not committed is done again by
    # others, so nothing is lost, and who asked for the end is not to think so.
    except Exception:
        if not stop.is_set():
            raise
        log.exception("worker did not stop cleanly", worker=name)


@dataclass(frozen=True, slots=True)
class _Worker:
    settings: Settings
    info: WorkerInfo
    lanes: tuple[Renewed[Lanes], ...]
    host: AgentHost | None
    views: Renewed[Views] | None
    readiness: Readiness
    gaps: RecentGaps
    rights: RightsWatch
    templates: TemplateFollower | None = None

    def unready(self) -> list[str]:
        """Say why not all is done that is to be."""
        reasons = [reason for one in self.lanes if (reason := _unready(one, one.part.unready()))]
        if self.host is not None and (blocked := self.host.unready()) is not None:
            reasons.append(blocked)
        if self.views is not None:
            told = _unready(self.views, "; ".join(self.views.part.unready()))
            reasons += [told] if told else []
        return reasons

    def warnings(self) -> list[str]:
        """Say what somebody is to know of, ready or not."""
        behind = self.views.part.behind() if self.views is not None else []
        return [*self.gaps.told(), *behind]


def _unready(one: Renewed[Any], reason: str | None) -> str | None:
    return f"{one.name} are built anew: brokers did not let them go on" if one.renewing else reason


async def _build(
    settings: Settings,
    roles: frozenset[Role],
    name: str,
    stack: AsyncExitStack,
    *,
    app: AppParts,
    run_agent: RunAgent | None,
    threads: Threads | None,
    drain: Callable[[], None],
) -> _Worker:
    policy = load_policy(settings, app.policy_file)
    tell_of_templates_for_nobody(policy, app.templates)
    for line in live_security(settings).warnings():
        log.warning("security", what=line)
    for line in await require_reach(settings):
        log.warning("a broker is not reached", what=line)
    await require_transactions(settings)
    rights = RightsWatch(settings, sorted(roles))
    await require_topics(settings, rights)
    collector = MetricsCollector()
    tell_of_process(collector, policy_digest=policy.digest)
    set_metrics(collector)
    readiness = Readiness()
    exposition = Exposition(settings, collector, readiness)
    stack.push_async_callback(exposition.stop)
    await exposition.start()
    unreadable = collector.counter(
        "millstream_session_view_unreadable_total",
        "Keys of the session view that held what cannot be read: the log was asked instead.",
    )
    store = RedisSessionStore(settings, on_unreadable=unreadable.inc)
    stack.push_async_callback(store.close)
    gaps = RecentGaps()
    views: Renewed[Views] | None = None
    if "views" in roles:
        known_models = (settings.default_model, *FREE_MODELS, *policy.prices)
        views = Renewed(
            "views",
            partial(
                Views,
                settings,
                store,
                collector,
                known_models=known_models,
                gaps=gaps,
                shown=Shown(),
                marks=store.marks,
            ),
            Views.stop,
        )
    lanes: tuple[Renewed[Lanes], ...] = ()
    host: AgentHost | None = None
    templates: TemplateFollower | None = None
    if "lanes" in roles:
        producer = await stack.enter_async_context(_producer(settings))
        # Loading the model stops the loop for a moment, which must not be while others wait.
        resolve = resolving(settings, app)
        await _warm_up(settings, resolve)
        stack.push_async_callback(app.mcp.close)
        await app.mcp.open(app.tools)
        count_mcp_servers(app.mcp, collector)
        factory = app.factory(
            default_model=settings.default_model, resolve=resolve, windows=windows(settings, app)
        )
        told = Listeners(app.listeners)
        stack.push_async_callback(asyncio.to_thread, told.close)
        host = agent_host(
            settings,
            factory,
            resolve,
            collector,
            run_agent=run_agent,
            threads=threads,
            drain=drain,
            listeners=told,
        )
        stack.push_async_callback(host.close)
        metrics = LaneMetrics.declare(collector)
        services = LaneServices(
            worker=name,
            producer=producer,
            factory=factory,
            run_agent=host.run,
            peek_checkpoint=peek_in(store),
            clock_ms=wall_clock_ms,
            metrics=metrics,
            drain=drain,
            circuits=ModelCircuits(on_change=metrics.tell_circuit),
            listeners=told,
            on_illegal=log_illegal,
            gaps=gaps,
            rights=rights.whole,
            policy_digest=policy.digest,
        )
        templates = TemplateFollower(settings, factory, collector, group=services.group_templates)
        stack.push_async_callback(templates.stop)
        await templates.start()
        lanes = _lanes(settings, policy, app, services)
    stack.push_async_callback(stop_parts, lanes, views, settings.shutdown_grace_s)
    starts = [one.start() for one in lanes]
    await asyncio.gather(*starts, *([views.start()] if views is not None else []))
    info = WorkerInfo(name, roles, f"{exposition.url}/metrics", policy.digest)
    rights.start()
    stack.push_async_callback(rights.stop)
    return _Worker(settings, info, lanes, host, views, readiness, gaps, rights, templates)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Give what `work` comes to; cut it off and give `None` once `stop` is set."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
    return None if working.cancelled() else working.result()


def _lanes(
    settings: Settings, policy: Policy, app: AppParts, services: LaneServices
) -> tuple[Renewed[Lanes], ...]:
    def pipelines() -> tuple[MiddlewarePipeline, ...]:
        return build_pipeline(policy, layers=app.layers).split(settings.chain_cuts)

    # A chain that is cut in a wrong place is told before anything starts.
    if not pipelines()[-1].reserves_calls:
        log.info(
            "the chain is cut behind what reserves: a run reserves all of its model calls at once",
            chain_cuts=settings.chain_cuts,
        )
    made: dict[str, Lanes] = {}

    def make(stage: Stage) -> Lanes:
        lanes = made[stage.name] = Lanes(settings, services, stage)
        services.metrics.watch(tuple(made.values()))
        return lanes

    async def cut_off(lanes: Lanes) -> None:
        await lanes.stop(0.0)

    return tuple(
        Renewed(f"lanes of {stage.name}", partial(make, stage), cut_off)
        for stage in stages(settings.chain_cuts, pipelines)
    )


async def _warm_up(settings: Settings, resolve: ResolveModel) -> None:
    try:
        await warm_up(settings.default_model, resolve)
    except Terminal as error:
        if "default_model" in settings.model_fields_set:
            raise Misconfigured(f"MILLSTREAM_DEFAULT_MODEL: {error}") from error
        # Nobody asked for it: an app whose templates name their models does without.
        log.warning("default model unavailable", model=settings.default_model, reason=str(error))


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[RenewedProducer]:
    producer = RenewedProducer(partial(idempotent_producer, settings))
    try:
        try:
            await producer.start()
        except KafkaError as error:
            raise not_reached(settings, error) from error
        yield producer
    finally:
        # It waits for what was sent, and where no broker answers that is tried for 40 s.
        try:
            await asyncio.wait_for(producer.stop(), _PRODUCER_STOP_S)
        except TimeoutError:
            log.warning("what was sent last was not acknowledged: tokens of runs that were cut off")


def _spare_the_collector() -> None:
    """Take what was built at the start out of garbage collection, and collect less often.

    Runs make thousands of short-lived objects each; walking LangChain's modules for every few
    hundred of them is CPU that runs could have. A thousand runs that wait for their models are
    some 300,000 objects: to walk them whenever others begin would take a quarter of that CPU. What
    a run leaves behind goes by its reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION)


async def _watch(worker: _Worker, ready: Callable[[WorkerInfo], None], stop: asyncio.Event) -> None:
    told = False
    unready = UnreadyLog()
    security = live_security(worker.settings)
    while not stop.is_set():
        reasons = worker.unready()
        if reasons:
            reasons = [*security.told(), *reasons]  # what is to be mended stands first
        worker.rights.heed(is_ready=not reasons)
        if lacks := worker.rights.reasons:
            reasons.insert(0, f"this user lacks rights on Kafka: {'; '.join(lacks)}")
        worker.readiness.set("worker", "; ".join(reasons) or None)
        worker.readiness.warn(worker.warnings())
        unready.tell(reasons)
        if not reasons and not told:
            told = True
            _spare_the_collector()
            ready(worker.info)
        _look_after(worker)
        try:
            async with asyncio.timeout(_WATCH_INTERVAL_S):
                await stop.wait()
        except TimeoutError:
            continue


def _look_after(worker: _Worker) -> None:
    """Renew what an outage has ended. Raises `WorkerCrashed` for what ended otherwise."""
    parts: list[Renewed[Any]] = [*worker.lanes, *([worker.views] if worker.views else [])]
    for part in parts:
        part.look()
        if (failure := part.failure) is not None:
            raise WorkerCrashed(f"the {part.name} stopped: {failure!r}") from failure
    if worker.templates is not None and (failure := worker.templates.failure) is not None:
        raise WorkerCrashed(f"templates are not followed: {failure!r}") from failure
