"""Cases as files, and what runs them: a real lane, real agents, the real client, a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from millstream.agents.executor import AgentExecutor, wall_clock_ms
from millstream.agents.factory import AgentFactory
from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.resolve import resolve_model
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import ToolRegistry, built_in_tools
from millstream.middleware.policy import Policy
from millstream.schemas.base import Usage
from millstream.schemas.events import AgentResult, AgentToken, CheckpointSaved, CostRecorded
from millstream.schemas.ports import ClockMs
from millstream.schemas.topics import CHECKPOINTS, COSTS, RESULTS, TOKENS
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.base.limits import LaneLimits
from millstream.streams.settings import Settings
from tests.harness import lanes, memory_lanes
from tests.harness.lanes import OneLane, Upstream, ask
from tests.harness.memory_lanes import MemoryLanes
from tests.harness.quick_time import QuickLoop
from tests.providers.server import Call, PlayedProvider, serving

__all__ = ["Bench", "Case", "Ended", "case_of", "check", "in_memory", "load_cases", "on_kafka"]

CASES = Path(__file__).parent / "cases"
PROVIDERS = ("openai", "anthropic", "google_genai", "ollama")
_EVENT_COMMON = {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": "fake"}


@dataclass(frozen=True, slots=True)
class Case:
    """What a provider sends, what is asked of it, and what is right."""

    name: str
    file: str
    templates: tuple[str, ...]
    server: Mapping[str, Any]
    requests: tuple[Mapping[str, Any], ...]
    right: tuple[Mapping[str, Any], ...]
    prices: Mapping[str, Any]
    template: Mapping[str, Any]
    model: Mapping[str, Any]
    policy: Mapping[str, Any]


def load_cases() -> list[Case]:
    """Read all cases, by name."""
    return [_load(path) for path in sorted(CASES.glob("*.json"))]


def _load(path: Path) -> Case:
    return case_of(json.loads(path.read_text()), path.stem)


def case_of(told: Mapping[str, Any], file: str = "") -> Case:
    """Give a case as a file tells it."""
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 10}
    fallback = {f"{provider}:fake": price for provider in PROVIDERS}
    return Case(
        name=told["name"],
        file=file,
        templates=tuple(told.get("templates", ("chat_agent", "react_agent"))),
        server=told["server"],
        requests=tuple(told["requests"]),
        right=tuple(told["right"]),
        prices=told.get("prices", fallback),
        template=told.get("template", {}),
        model=told.get("model", {}),
        policy=told.get("policy", {}),
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a request: its result and its other records."""

    result: AgentResult
    costs: tuple[CostRecorded, ...]
    tokens: tuple[AgentToken, ...]
    checkpoints: tuple[CheckpointSaved, ...]


@dataclass
class Bench:
    """A lane that serves, an upstream of it, and the provider that its agents call.

    `harness` reads the topics at `where`: `tests.harness.lanes`, or its twin in memory.
    """

    lane: OneLane
    program: Upstream
    provider: PlayedProvider
    harness: ModuleType
    where: Any
    asked: int = 0

    async def run(self, text: str, **fields: Any) -> Ended:
        """Have the lane serve a request, and give all that it left on the topics."""
        self.asked += 1
        self.lane.serve(*await ask(self.program, text, **fields))
        request_id = fields["request_id"]
        results = await self.harness.read_topic(
            self.where, RESULTS, AgentResult, count=self.asked, timeout_s=_ENDS_WITHIN_S
        )
        (result,) = _of(request_id, results)
        # All but the tokens, which stand before it, were committed with the result.
        return Ended(
            result,
            costs=_of(request_id, await self._all(COSTS, CostRecorded)),
            tokens=_of(request_id, await self._all(TOKENS, AgentToken)),
            checkpoints=_of(request_id, await self._all(CHECKPOINTS, CheckpointSaved)),
        )

    async def _all(self, spec: Any, event: Any) -> Any:
        return await self.harness.read_whole(self.where, spec, event)


_ENDS_WITHIN_S = 600.0


def _of(request_id: str, events: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(event for event in events if event.request_id == request_id)


MakeTools = Callable[[str], ToolRegistry]
"""Makes the tools of a case's agents, given the address of its server."""


def _built_in(_: str) -> ToolRegistry:
    return ToolRegistry(built_in_tools())


@asynccontextmanager
async def in_memory(
    case: Case,
    templates: Iterable[AgentTemplate] = BUILT_IN_TEMPLATES,
    tools: MakeTools = _built_in,
) -> AsyncIterator[Bench]:
    """Play a case to a lane over a broker in memory; to be run on a `QuickLoop`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, QuickLoop)
    settings = Settings(namespace="memory", partitions=1)
    world = MemoryLanes(
        settings=settings, limits=LaneLimits(), broker=MemoryBroker(settings, loop.strict_clock_ms)
    )
    async with (
        _provider(case, loop.time, templates, tools) as (provider, factory),
        memory_lanes.lane_services(world) as services,
        memory_lanes.upstream(world) as program,
        memory_lanes.one_lane(
            world, _serving_with(services, factory, loop.clock_ms), _policy(case)
        ) as lane,
    ):
        yield Bench(lane, program, provider, memory_lanes, world)


@asynccontextmanager
async def on_kafka(case: Case, settings: Settings) -> AsyncIterator[Bench]:
    """Play a case to a lane on real Kafka, where waits take their time."""
    async with (
        _provider(case, asyncio.get_running_loop().time) as (provider, factory),
        lanes.lane_services(settings) as services,
        lanes.upstream(settings) as program,
        lanes.one_lane(
            settings, _serving_with(services, factory, wall_clock_ms), _policy(case)
        ) as lane,
    ):
        yield Bench(lane, program, provider, lanes, settings)


@asynccontextmanager
async def _provider(
    case: Case,
    now_s: Callable[[], float],
    templates: Iterable[AgentTemplate] = BUILT_IN_TEMPLATES,
    tools: MakeTools = _built_in,
) -> AsyncIterator[tuple[PlayedProvider, AgentFactory]]:
    http = ProviderHttp()
    provider = PlayedProvider(case.server, _EVENT_COMMON, now_s=now_s)
    async with serving(provider) as url:

        def resolve(name: str, **params: Any) -> Any:
            return resolve_model(
                name, http=http, base_url=url, api_key="key", **params, **case.model
            )

        factory = AgentFactory(
            default_model="openai:fake",
            templates=[each.model_copy(update=case.template) for each in templates],
            tools=tools(url),
            resolve=resolve,
        )
        try:
            yield provider, factory
        finally:
            await http.close()


def _serving_with(services: LaneServices, factory: AgentFactory, clock_ms: ClockMs) -> LaneServices:
    executor = AgentExecutor(factory, clock_ms=clock_ms)
    return replace(
        services,
        factory=factory,
        run_agent=executor.run,
        clock_ms=clock_ms,
        # Of the wait before another attempt nothing is taken off.
        chance=lambda: 0.0,
    )


def _policy(case: Case) -> Policy:
    return Policy.model_validate({"prices": case.prices, **case.policy})


async def check(case: Case, template: str, bench: Bench) -> None:
    """Run a case's requests one after the other, and compare each with what is right."""
    provider = bench.provider
    for number, (asked, right) in enumerate(zip(case.requests, case.right, strict=True)):
        given = {"request_id": f"r{number}", "session_id": f"s{number}", "template": template}
        fields = {**given, **{key: asked[key] for key in asked if key != "input"}}
        before = len(provider.calls)
        ended = await bench.run(asked["input"], **fields)
        told = _told(ended, provider.calls[before:])
        told["pieces_taken_max"] = max(provider.pieces_taken[before:], default=0)
        _compare(right, told)


def _told(ended: Ended, calls: list[Call]) -> dict[str, Any]:
    result, costs = ended.result, ended.costs
    _hold_together(ended)
    output = result.output
    if result.structured is not None:
        output = result.structured["answer"]
    attempts = sorted({cost.attempt for cost in costs})
    return {
        **result.model_dump(mode="json"),
        "output": output,
        "reason_code": None if result.reason is None else result.reason.code,
        "retry_after_s": None if result.reason is None else result.reason.retry_after_s,
        "attempts": len(attempts),
        "calls": len(calls),
        "cost_micros": result.cost_micros,
        "estimated": [
            any(cost.estimated for cost in costs if cost.attempt == attempt) for attempt in attempts
        ],
        "second_call_at_s": calls[1].at_s - calls[0].at_s if len(calls) > 1 else None,
        "body": calls[-1].body if calls else None,
        "usage": result.usage.model_dump(),
    }


def _hold_together(ended: Ended) -> None:
    """Check what holds of each request: its records tell the same as its result."""
    result, costs = ended.result, ended.costs
    newest = [token for token in ended.tokens if token.attempt == result.attempt]
    assert [token.seq for token in newest] == list(range(result.last_seq + 1))
    assert "".join(token.text for token in newest) == (result.output or "")
    assert sum(cost.cost_micros for cost in costs) == result.cost_micros
    assert sum((cost.usage for cost in costs), Usage()) == result.usage
    assert len({cost.event_id for cost in costs}) == len(costs)
    assert all(cost.estimated or cost.estimate_reason is None for cost in costs)
    # What failed is not remembered.
    assert len(ended.checkpoints) == (result.status == "completed")


def _compare(right: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    for key, wanted in right.items():
        if key == "not":
            for field_name, unwanted in wanted.items():
                assert told[field_name] != unwanted, (field_name, told)
        elif key in _HOLDS:
            field_name, holds = _HOLDS[key]
            assert holds(wanted, told[field_name]), (key, told)
        elif key not in _FOR_PEOPLE:
            assert told[key] == wanted, (key, told)


_FOR_PEOPLE = frozenset({"note", "tells", "or"})
_HOLDS: Mapping[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "body_must_have": ("body", lambda wanted, body: wanted.items() <= body.items()),
    "body_must_not_have": ("body", lambda wanted, body: not set(wanted) & body.keys()),
    # The clock is not the test's alone: what is computed takes its time.
    "second_call_at_s": ("second_call_at_s", lambda wanted, at_s: wanted <= at_s < wanted + 2),
    "second_call_not_before_s": ("second_call_at_s", lambda wanted, at_s: at_s >= wanted),
    "cost_micros_max": ("cost_micros", lambda wanted, micros: micros <= wanted),
    "pieces_taken_max": ("pieces_taken_max", lambda wanted, taken: taken <= wanted),
    "usage": ("usage", lambda wanted, usage: wanted.items() <= usage.items()),
    "reason": ("reason", lambda wanted, reason: wanted.items() <= (reason or {}).items()),
}
