"""Cases as files, and what runs them: real agents, the real client, a server on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from millstream.agents.executor import AgentExecutor, RunOutcome
from millstream.agents.factory import AgentFactory
from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.resolve import resolve_model
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.base import AttemptQuote, AttemptUsage, MiddlewareContext, RunAccount
from millstream.middleware.cost import CostTrackingMiddleware
from millstream.middleware.policy import Policy, Price
from millstream.middleware.prices import PriceTable
from millstream.schemas.events import (
    AgentResult,
    AgentToken,
    AttemptStarted,
    CheckpointSaved,
    CostRecorded,
    ResolvedRequest,
)
from tests.harness.agent_runs import resolved
from tests.providers.server import PlayedProvider, serving

__all__ = ["Case", "Ended", "RunRequest", "check", "direct", "load_cases"]

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


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a request: its result, the cost record and the token records."""

    result: AgentResult
    costs: tuple[CostRecorded, ...]
    attempts: int
    tokens: tuple[AgentToken, ...]


RunRequest = Callable[[ResolvedRequest], Awaitable[Ended]]
"""Runs a request to its result; by the executor alone, or through a lane."""


def load_cases() -> list[Case]:
    """Read all cases, by name."""
    return [_load(path) for path in sorted(CASES.glob("*.json"))]


def _load(path: Path) -> Case:
    told = json.loads(path.read_text())
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 10}
    fallback = {f"{provider}:fake": price for provider in PROVIDERS}
    return Case(
        name=told["name"],
        file=path.stem,
        templates=tuple(told.get("templates", ("chat_agent", "react_agent"))),
        server=told["server"],
        requests=tuple(told["requests"]),
        right=tuple(told["right"]),
        prices=told.get("prices", fallback),
        template=told.get("template", {}),
        model=told.get("model", {}),
    )


@dataclass
class _Direct:
    """Runs requests as a lane does, attempt after attempt, on a clock of its own."""

    factory: AgentFactory
    executor: AgentExecutor
    cost: CostTrackingMiddleware
    clock_s: float = 0.0
    saved: dict[str, CheckpointSaved] = field(default_factory=dict)

    async def run(self, request: ResolvedRequest) -> Ended:
        plan = self.factory.plan(request)
        costs: list[CostRecorded] = []
        attempt = 0
        while True:
            attempt += 1
            started = self._begun(request, attempt)
            tokens: list[AgentToken] = []
            outcome = await self._attempt(request, attempt, tokens)
            used = AttemptUsage(
                attempt=attempt,
                model=plan.model,
                template=plan.template.name,
                usage=outcome.result.usage,
                usage_known=outcome.usage_known,
                started=started,
                calls=outcome.calls,
                estimate_reason=outcome.estimate_reason,
            )
            costs += [e for e in self.cost.charge(request, used) if isinstance(e, CostRecorded)]
            delay_s = self._delay_s(plan.template, attempt, outcome)
            if delay_s is None:
                break
            self.clock_s += delay_s
        if outcome.checkpoint is not None:
            self.saved[request.session_id] = outcome.checkpoint
        return Ended(outcome.result, tuple(costs), attempt, tuple(tokens))

    async def _attempt(
        self, request: ResolvedRequest, attempt: int, tokens: list[AgentToken]
    ) -> RunOutcome:
        async def load() -> CheckpointSaved | None:
            return self.saved.get(request.session_id)

        async def emit(token: AgentToken) -> None:
            tokens.append(token)

        return await self.executor.run(
            request,
            self.factory.plan(request),
            attempt=attempt,
            load_checkpoint=load,
            emit=emit,
            announce=attempt > 1,
        )

    def _delay_s(self, template: AgentTemplate, failures: int, outcome: RunOutcome) -> float | None:
        retry_after_s = outcome.retry_after_s
        if not outcome.retryable:
            return None
        return template.retry.delay_s(failures, chance=0.0, retry_after_s=retry_after_s)

    def _begun(self, request: ResolvedRequest, attempt: int) -> AttemptStarted | None:
        plan = self.factory.plan(request)
        context = MiddlewareContext(
            request, request.at_ms, plan.model, plan.output_tokens_max, plan.input_tokens_max
        )
        quote = self.cost.begin(context, RunAccount())
        if not isinstance(quote, AttemptQuote):
            return None
        return AttemptStarted(
            tenant=request.tenant,
            user_id=request.user_id,
            request_id=request.request_id,
            session_id=request.session_id,
            attempt=attempt,
            model=plan.model,
            usage_max=quote.usage_max,
            reserved_micros=quote.reserved_micros,
            price_digest=quote.price_digest,
        )


@asynccontextmanager
async def direct(case: Case) -> AsyncIterator[tuple[RunRequest, PlayedProvider]]:
    """Run a case's requests by the executor alone, through the client that a worker uses."""
    prices = {
        name: Price(**{field: Decimal(str(value)) for field, value in price.items()})
        for name, price in case.prices.items()
    }
    http = ProviderHttp()
    clock: list[_Direct] = []
    provider = PlayedProvider(case.server, _EVENT_COMMON, now_s=lambda: clock[0].clock_s)
    async with serving(provider) as url:

        def resolve(name: str, **params: Any) -> Any:
            return resolve_model(
                name, http=http, base_url=url, api_key="key", **params, **case.model
            )

        templates = [each.model_copy(update=case.template) for each in BUILT_IN_TEMPLATES]
        factory = AgentFactory(default_model="openai:fake", templates=templates, resolve=resolve)
        cost = CostTrackingMiddleware(Policy(), PriceTable(prices))
        clock.append(_Direct(factory, AgentExecutor(factory), cost))
        try:
            yield clock[0].run, provider
        finally:
            await http.close()


async def check(case: Case, template: str, run: RunRequest, provider: PlayedProvider) -> None:
    """Run a case's requests one after the other, and compare each with what is right."""
    for number, (asked, right) in enumerate(zip(case.requests, case.right, strict=True)):
        text = asked["input"]
        given = {"request_id": f"r{number}", "session_id": f"s{number}", "template": template}
        fields = {**given, **{key: asked[key] for key in asked if key != "input"}}
        before = len(provider.calls)
        ended = await run(resolved(text, **fields))
        calls = provider.calls[before:]
        told = _told(ended, calls)
        told["pieces_taken_max"] = max(provider.pieces_taken[before:], default=0)
        _compare(right, told)


def _told(ended: Ended, calls: list[Any]) -> dict[str, Any]:
    result = ended.result
    output = result.output
    if result.structured is not None:
        output = result.structured["answer"]
    pieces = "".join(token.text for token in ended.tokens)
    assert pieces == (result.output or "")
    return {
        **result.model_dump(mode="json"),
        "output": output,
        "reason_code": None if result.reason is None else result.reason.code,
        "retry_after_s": None if result.reason is None else result.reason.retry_after_s,
        "attempts": ended.attempts,
        "calls": len(calls),
        "cost_micros": sum(cost.cost_micros for cost in ended.costs),
        "estimated": [cost.estimated for cost in ended.costs],
        "second_call_at_s": calls[1].at_s - calls[0].at_s if len(calls) > 1 else None,
        "body": calls[-1].body if calls else None,
        "usage": {
            field: sum(getattr(cost.usage, field) for cost in ended.costs)
            for field in type(result.usage).model_fields
        },
    }


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
    "second_call_not_before_s": ("second_call_at_s", lambda wanted, at_s: at_s >= wanted),
    "cost_micros_max": ("cost_micros", lambda wanted, micros: micros <= wanted),
    "pieces_taken_max": ("pieces_taken_max", lambda wanted, taken: taken <= wanted),
    "usage": ("usage", lambda wanted, usage: wanted.items() <= usage.items()),
    "reason": ("reason", lambda wanted, reason: wanted.items() <= (reason or {}).items()),
}
