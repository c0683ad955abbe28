"""An app in memory: a lane with the app's layers over a broker in memory, for tests and trials.

All of it is what a worker runs, but for Kafka and Redis. So limits, caps, retries, sessions and
costs are as they are there.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Self, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import MessageSizeTooLargeError

from millstream.agents.executor import wall_clock_ms
from millstream.agents.loop.telling.listeners import Listeners
from millstream.agents.models.scripted.model import ScriptedChatModel
from millstream.agents.models.scripted.script import Script, parse_script
from millstream.middleware.pipeline import build_pipeline
from millstream.middleware.policy import Policy
from millstream.middleware.policy_errors import nearest
from millstream.schemas.base import Event
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.errors import InputTooLarge, MillstreamError
from millstream.schemas.events import (
    DEFAULT_TEMPLATE,
    AgentRequest,
    AgentResult,
    AgentToken,
    CheckpointSaved,
    CostRecorded,
    Decision,
)
from millstream.schemas.steps import AgentStep
from millstream.schemas.topics import (
    COMMAND_TOPICS,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    REQUESTS,
    RESULTS,
    STEPS,
    TOKENS,
    TopicSpec,
    catalogue,
)
from millstream.streams.apps.agent_run import AgentRun
from millstream.streams.apps.app import App
from millstream.streams.apps.checks import parts_of, resolving, windows
from millstream.streams.apps.memory_sessions import memory_sessions
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.broker.memory.consumer import MemoryConsumer
from millstream.streams.broker.memory.partition import StoredRecord
from millstream.streams.broker.memory.producers import MemoryProducer
from millstream.streams.hosting import agent_host
from millstream.streams.lane.base.context import LaneServices, stages
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.base.metrics import LaneMetrics
from millstream.streams.lane.base.window import Window
from millstream.streams.lane.io import MemoryLaneIO
from millstream.streams.lane.lane import Lane
from millstream.streams.policy_file import load_policy
from millstream.streams.sessions.manager import SessionManager
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.wire.codec import decode
from millstream.streams.wire.records import InputRecord

__all__ = ["AgentRun", "CannotRun", "InMemoryApp", "arun_agent", "run_agent"]

T = TypeVar("T")
Client = TypeVar("Client", MemoryConsumer, MemoryProducer)

TIMEOUT_S: Final = 60.0
_SHOWN: Final = (RESULTS, TOKENS, STEPS, COSTS, DECISIONS, DEAD_LETTERS)


class CannotRun(MillstreamError):
    """A request cannot come to a result: it cannot be read, or there is no way to wait for it."""

    code = "cannot_run"


class InMemoryApp:
    """Runs an app's agents in memory: `async with InMemoryApp(app) as memory: …`.

    `script` is what every model says, whatever its name: a text of cues, or one for each answer
    (`agents/models/scripted/script.py`). Without one, the models are real. `policy` takes the place
    of the app's own. Raises `Misconfigured` with all of the app's mistakes.
    """

    def __init__(
        self,
        app: App | None,
        *,
        script: str | Sequence[str] | None = None,
        policy: Policy | None = None,
    ) -> None:
        self._parts = parts_of(app)
        self._script = None if script is None else _script(script)
        self._settings = Settings.model_construct(
            namespace="memory",
            partitions=1,
            token_coalesce_s=0.0,
            default_model="scripted",
            scripted_model=True,
            template_unknown_wait_s=0.0,
        )
        self._policy = policy
        self._broker = MemoryBroker(self._settings, wall_clock_ms)
        self._clients = MemoryClients(self._broker)
        self._producer = self._clients.plain_producer()
        self._windows = {
            self._settings.topic(spec.name): Window[InputRecord](1000)
            for spec in (REQUESTS, *COMMAND_TOPICS)
        }
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open the lane."""
        self._broker.create_topics(catalogue(), partitions=1)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(started(self._producer))
            stack.push_async_callback(self._parts.mcp.close)
            await self._parts.mcp.open(self._parts.tools)
            self._lane = await stack.enter_async_context(self._open_lane())
            sessions = memory_sessions(self._settings, self._broker, self._serve)
            self._sessions = await stack.enter_async_context(sessions)
            self._exits = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it; what still runs is cut off."""
        await self._exits.aclose()

    @property
    def sessions(self) -> SessionManager:
        """The app's sessions; a request of one goes on with its conversation."""
        return self._sessions

    async def run(
        self,
        template: str = DEFAULT_TEMPLATE,
        input: str = "",  # noqa: A002  as the request's field
        *,
        user: str = "ada",
        timeout_s: float = TIMEOUT_S,
        **fields: Any,
    ) -> AgentRun:
        """Ask an agent, and give what became of it.

        `fields` are those of a request: `session_id`, `tenant`, `model`, `metadata`, …. Raises
        `TimeoutError` where there is no result after `timeout_s` seconds, `TypeError` for a field
        that no request has, `ValidationError` for what is no request, and `InputTooLarge`.
        """
        for name in fields.keys() - AgentRequest.model_fields.keys():
            message = f"a request has no field {name!r}{nearest(name, AgentRequest.model_fields)}"
            raise TypeError(message)
        value = {
            # Another one in each test: what a tool calls may know keys of earlier requests.
            "request_id": f"request-{secrets.token_hex(4)}",
            "user_id": user,
            "input": input,
            "template": template,
            **fields,
        }
        # What cannot be read would become a dead letter, and have no result.
        AgentRequest.model_validate(value)
        async with started(self._clients.consumer()) as consumer:
            places = {TopicPartition(self._settings.topic(spec.name), 0): spec for spec in _SHOWN}
            consumer.assign(list(places))
            for where, end in (await consumer.end_offsets(list(places))).items():
                consumer.seek(where, end)
            await self._publish(value)
            found: dict[type[Event], list[Any]] = {spec.event: [] for spec in _SHOWN}
            async with asyncio.timeout(timeout_s):
                while not found[AgentResult]:
                    fetched = await self._unless_lost(consumer.getmany(timeout_ms=60_000))
                    _sort_out(fetched, places, value["request_id"], found)
            # What was committed with the result, and the tokens before it.
            _sort_out(await consumer.getmany(), places, value["request_id"], found)
        return AgentRun(
            result=found[AgentResult][0],
            tokens=tuple(found[AgentToken]),
            steps=tuple(found[AgentStep]),
            costs=tuple(found[CostRecorded]),
            decision=next(iter(found[Decision]), None),
        )

    async def _publish(self, value: Mapping[str, Any]) -> None:
        topic, raw = self._settings.topic(REQUESTS.name), json.dumps(value).encode()
        try:
            stored = await self._producer.send_and_wait(topic, raw, partition=0)
        except MessageSizeTooLargeError as error:
            message = f"the request has {len(raw):,} bytes, more than a record of Kafka's may have"
            raise InputTooLarge(message) from error
        self._serve(
            InputRecord(
                topic=topic,
                partition=0,
                offset=stored.offset,
                timestamp=stored.timestamp,
                key=None,
                value=raw,
                headers=(),
            )
        )

    def _serve(self, record: InputRecord) -> None:
        entry = self._windows[record.topic].take(record.offset, record, _nothing)
        if entry is not None:
            self._lane.serve(entry)

    async def _unless_lost(self, reading: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(reading)
        waits: set[asyncio.Future[Any]] = {task, self._lane.lost}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        raise self._lane.lost.result()

    @asynccontextmanager
    async def _open_lane(self) -> AsyncIterator[Lane]:
        settings, parts = self._settings, self._parts
        resolve = resolving(settings, parts) if self._script is None else self._says_the_script
        factory = parts.factory(
            default_model=settings.default_model,
            resolve=resolve,
            windows=windows(settings, parts, with_own=self._script is None),
        )
        collector = MetricsCollector()
        told = Listeners(parts.listeners)
        host = agent_host(settings, factory, resolve, collector, drain=_nothing, listeners=told)
        services = LaneServices(
            worker="memory",
            producer=self._producer,
            factory=factory,
            run_agent=host.run,
            peek_checkpoint=_no_redis,
            clock_ms=wall_clock_ms,
            metrics=LaneMetrics.declare(collector),
            drain=_nothing,
            listeners=told,
        )
        policy = load_policy(settings, parts.policy_file) if self._policy is None else self._policy
        (stage,) = stages((), lambda: (build_pipeline(policy, layers=parts.layers),))
        lane = Lane(
            settings,
            services,
            stage,
            0,
            before_call=_at_once,
            crash_counter=CrashCounter(),
            io=MemoryLaneIO(settings, self._broker),
        )
        try:
            await lane.open()
            yield lane
        finally:
            await lane.close(snapshot=False)
            await host.close()
            await asyncio.to_thread(told.close)

    def _says_the_script(self, _name: str, **_params: Any) -> ScriptedChatModel:
        return ScriptedChatModel(script=self._script)


async def arun_agent(
    app: App | None,
    template: str = DEFAULT_TEMPLATE,
    input: str = "",  # noqa: A002  as the request's field
    *,
    script: str | Sequence[str] | None = None,
    policy: Policy | None = None,
    **request: Any,
) -> AgentRun:
    """Run an agent in memory once, as `run_agent` does, on the loop that runs already."""
    async with InMemoryApp(app, script=script, policy=policy) as memory:
        return await memory.run(template, input, **request)


def run_agent(
    app: App | None,
    template: str = DEFAULT_TEMPLATE,
    input: str = "",  # noqa: A002  as the request's field
    *,
    script: str | Sequence[str] | None = None,
    policy: Policy | None = None,
    **request: Any,
) -> AgentRun:
    """Run an agent in memory once, and give what became of it. Without an app: a built-in one.

    `script` is what every model says, for tests: `say: hello`, `call: find {"id": 7}; say: it is
    {tool_result}`; a list has one for each answer. Without one, models are real. `request` has
    `user`, `session_id`, `tenant`, `model`, `metadata` and what else a request has, and
    `timeout_s`. The app's layers are asked, under its policy or under `policy`.

    Raises `Misconfigured` with all of the app's mistakes, `ValidationError` for what is no request,
    and `TimeoutError`. In a running event loop it raises `CannotRun`: await `arun_agent` there.
    """
    if asyncio._get_running_loop() is not None:  # noqa: SLF001  its public twin raises for none
        message = "run_agent cannot wait in a running event loop: await arun_agent(…) there"
        raise CannotRun(message)
    return asyncio.run(arun_agent(app, template, input, script=script, policy=policy, **request))


@asynccontextmanager
async def started(client: Client) -> AsyncIterator[Client]:
    """Start a client, and stop it in the end."""
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


def _script(script: str | Sequence[str]) -> Script:
    texts = [script] if isinstance(script, str) else script
    return tuple(turn for text in texts for turn in parse_script(text))


def _sort_out(
    fetched: Mapping[TopicPartition, Sequence[StoredRecord]],
    places: Mapping[TopicPartition, TopicSpec],
    request_id: str,
    found: Mapping[type[Event], list[Any]],
) -> None:
    for where, records in fetched.items():
        for record in records:
            event: Any = decode(record, places[where].event)
            if isinstance(event, DeadLetter):
                raise CannotRun(f"the request was buried: {event.reason.message}")
            if event.request_id == request_id:
                found[type(event)].append(event)


async def _no_redis(_tenant: str, _user_id: str, _session_id: str) -> CheckpointSaved | None:
    return None


async def _at_once() -> None:
    """Let every call be made: there is no group to be thrown out of."""


def _nothing() -> None:
    """Acknowledge nothing: the log is in memory."""
