"""What runs cases: a real lane, real agents, the real client, a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel

from millstream.agents.executor import AgentExecutor, wall_clock_ms
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.loop.telling.teller import NOT_MADE
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
from tests.providers.case_file import Case, case_of, read_cases
from tests.providers.right import compare
from tests.providers.server import Call, PlayedProvider, serving

__all__ = [
    "REPORTED",
    "Bench",
    "Case",
    "Ended",
    "case_of",
    "check",
    "in_memory",
    "load_cases",
    "on_kafka",
]

CASES = Path(__file__).parent / "cases"
REPORTED = Path(__file__).parent / "reported"
_ANYTHING = {"templates": ["*"], "permissions": ["*"], "models": ["*"]}
_EVENT_COMMON = {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": "fake"}


def load_cases(folder: Path = CASES) -> list[Case]:
    """Read all cases of a folder, by name."""
    return read_cases(folder)


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
    `tools_begun` names each tool as it is called.
    """

    lane: OneLane
    program: Upstream
    provider: PlayedProvider
    harness: ModuleType
    where: Any
    tools_begun: list[str]
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
    models: Mapping[str, BaseChatModel] = MappingProxyType({}),
    *,
    langchains: bool = False,
) -> AsyncIterator[Bench]:
    """Play a case to a lane over a broker in memory; to be run on a `QuickLoop`.

    `models` are those that no provider serves, by name. `langchains`: LangChain's class speaks to
    OpenAI's dialect, and not ours.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, QuickLoop)
    begun: list[str] = []
    settings = Settings(namespace="memory", partitions=1)
    world = MemoryLanes(
        settings=settings, limits=LaneLimits(), broker=MemoryBroker(settings, loop.strict_clock_ms)
    )
    async with (
        _provider(case, loop.time, templates, tools, models, langchains=langchains) as (
            provider,
            factory,
        ),
        memory_lanes.lane_services(world) as services,
        memory_lanes.upstream(world) as program,
        memory_lanes.one_lane(
            world, _serving_with(services, factory, loop.clock_ms, begun), _policy(case)
        ) as lane,
    ):
        yield Bench(lane, program, provider, memory_lanes, world, begun)


@asynccontextmanager
async def on_kafka(
    case: Case,
    settings: Settings,
    templates: Iterable[AgentTemplate] = BUILT_IN_TEMPLATES,
    tools: MakeTools = _built_in,
) -> AsyncIterator[Bench]:
    """Play a case to a lane on real Kafka, where waits take their time."""
    begun: list[str] = []
    async with (
        _provider(case, asyncio.get_running_loop().time, templates, tools) as (provider, factory),
        lanes.lane_services(settings) as services,
        lanes.upstream(settings) as program,
        lanes.one_lane(
            settings, _serving_with(services, factory, wall_clock_ms, begun), _policy(case)
        ) as lane,
    ):
        yield Bench(lane, program, provider, lanes, settings, begun)


@asynccontextmanager
async def _provider(
    case: Case,
    now_s: Callable[[], float],
    templates: Iterable[AgentTemplate] = BUILT_IN_TEMPLATES,
    tools: MakeTools = _built_in,
    models: Mapping[str, BaseChatModel] = MappingProxyType({}),
    *,
    langchains: bool = False,
) -> AsyncIterator[tuple[PlayedProvider, AgentFactory]]:
    if case.fault is not None:
        raise case.fault
    http = ProviderHttp()
    provider = PlayedProvider(case.server, _EVENT_COMMON, now_s=now_s)
    async with serving(provider) as url:

        def resolve(name: str, **params: Any) -> Any:
            if name in models:
                return models[name]
            if langchains and name.startswith("openai:"):
                name = f"langchain:{name}"
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


def _serving_with(
    services: LaneServices, factory: AgentFactory, clock_ms: ClockMs, begun: list[str]
) -> LaneServices:
    async def hear(event: CallbackEvent) -> None:
        if event.kind == "tool_start":
            begun.append(event.name or "")
        elif event.reason is not None and event.reason.code == NOT_MADE:
            begun.remove(event.name or "")

    executor = AgentExecutor(factory, clock_ms=clock_ms, on_event=hear)
    return replace(
        services,
        factory=factory,
        run_agent=executor.run,
        clock_ms=clock_ms,
        # Of the wait before another attempt nothing is taken off.
        chance=lambda: 0.0,
    )


def _policy(case: Case) -> Policy:
    """Give the case's own, under which everybody may name any model."""
    given = {"prices": case.prices, "roles": {"any": _ANYTHING}, **case.policy}
    defaults = {"roles": ["any"], **case.policy.get("defaults", {})}
    return Policy.model_validate({**given, "defaults": defaults})


async def check(case: Case, template: str, bench: Bench) -> None:
    """Run a case's requests one after the other, and compare each with what is right."""
    provider = bench.provider
    for number, (asked, right) in enumerate(zip(case.requests, case.right, strict=True)):
        given = {"request_id": f"r{number}", "session_id": f"s{number}", "template": template}
        fields = {**given, **{key: asked[key] for key in asked if key != "input"}}
        before, tools_before = len(provider.calls), len(bench.tools_begun)
        ended = await bench.run(asked["input"], **fields)
        told = _told(ended, provider.calls[before:])
        told["tool_runs"] = len(bench.tools_begun) - tools_before
        told["pieces_taken_max"] = max(provider.pieces_taken[before:], default=0)
        compare(right, told, f"request {number} ({asked['input']!r})")


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
        "checkpoints": len(ended.checkpoints),
        "costs": _by_model(costs),
        "second_call_at_s": calls[1].at_s - calls[0].at_s if len(calls) > 1 else None,
        "body": calls[-1].body if calls else None,
        "usage": result.usage.model_dump(),
    }


def _by_model(costs: Iterable[CostRecorded]) -> dict[str, list[int]]:
    """Give tokens read and written, and micros, by the model's name."""
    sums: dict[str, list[int]] = {}
    for cost in costs:
        one = (cost.usage.input_tokens, cost.usage.output_tokens, cost.cost_micros)
        before = sums.get(cost.model, [0, 0, 0])
        sums[cost.model] = [sum(pair) for pair in zip(before, one, strict=True)]
    return sums


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
