"""Fills the topics of a deployment as its runs would, at some 30,000 records a second.

Each run is 20 records: a request, what was decided on it, an attempt, four steps, ten pieces of its
answer, what it cost, its checkpoint and its result. What lanes commit together stands in one
transaction for some runs, so its markers lie in between.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from typing import Any

from aiokafka import AIOKafkaProducer

from millstream.agents.executor import wall_clock_ms
from millstream.schemas.base import Address, Event, Usage
from millstream.schemas.events import (
    AgentRequest,
    AgentResult,
    AgentToken,
    AttemptStarted,
    CheckpointSaved,
    CostRecorded,
    Decision,
)
from millstream.schemas.steps import AgentStep
from millstream.schemas.topics import (
    ATTEMPTS,
    CHECKPOINTS,
    COSTS,
    DECISIONS,
    REQUESTS,
    RESULTS,
    STEPS,
    TOKENS,
    TopicSpec,
)
from millstream.streams.broker.batches import Outgoing, send_batches
from millstream.streams.broker.clients import idempotent_producer, transactional_producer
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import encode
from millstream.streams.wire.partitioning import home_partition

__all__ = ["RUN_RECORDS", "USERS", "fill", "names_of"]

RUN_RECORDS = 20
USERS = 1_000

_TOKENS = 10
_RUNS_AT_ONCE = 100
_CHECKPOINT_BYTES = 1_500
_TURNS = 5
_SOURCE = "/bench"
_WORDS = "the order was sent on Tuesday and should arrive within three days of that"


def names_of(run: int) -> dict[str, str]:
    """Give user, session and request of a run; a session is of five runs in a row of its user."""
    user = run % USERS
    turn = run // USERS
    return {
        "user_id": f"user-{user}",
        "session_id": f"session-{user}-{turn // _TURNS}",
        "request_id": f"request-{run}",
    }


async def fill(settings: Settings, runs: range) -> None:
    """Write the records of these runs, acknowledged and committed. The topics are there."""
    told = idempotent_producer(settings)
    committed = transactional_producer(settings, f"{settings.namespace}-fill")
    async with told, committed:
        for first in range(runs.start, runs.stop, _RUNS_AT_ONCE):
            some = range(first, min(first + _RUNS_AT_ONCE, runs.stop))
            await _write(settings, told, committed, some)


async def _write(
    settings: Settings, told: AIOKafkaProducer, committed: AIOKafkaProducer, runs: range
) -> None:
    at_once: list[Outgoing] = []
    together: list[Outgoing] = []
    for run in runs:
        for spec, event in _events(settings, run):
            home = home_partition(event.partition_key, settings.partitions)
            outgoing = Outgoing(settings.topic(spec.name), home, encode(event, source=_SOURCE))
            (at_once if spec in {REQUESTS, TOKENS, STEPS} else together).append(outgoing)
    await send_batches(told, at_once)
    async with committed.transaction():
        await send_batches(committed, together)


def _events(settings: Settings, run: int) -> Iterator[tuple[TopicSpec, Event]]:
    names: dict[str, Any] = names_of(run)
    now_ms = wall_clock_ms()
    of_run = names | {"at_ms": now_ms}
    usage = Usage(input_tokens=320, output_tokens=_TOKENS)
    source = Address(topic=settings.topic(REQUESTS.name), partition=0, offset=run)
    yield REQUESTS, AgentRequest(**of_run, input=f"{_WORDS}; {_WORDS} ({run})")
    yield (
        DECISIONS,
        Decision(
            **of_run,
            admitted=True,
            passed=("auth", "logging", "cost", "rate_limit"),
            template_version="1",
            request_digest=f"{run:016x}",
            generation=1,
            source=source,
        ),
    )
    yield (
        ATTEMPTS,
        AttemptStarted(
            **of_run,
            attempt=1,
            model="gpt-4o-mini",
            usage_max=usage,
            reserved_micros=5_000,
            price_digest="0123456789abcdef",
            calls_max=4,
            journals=True,
        ),
    )
    for seq, kind in enumerate(("model_start", "tool_start", "tool_end", "model_end")):
        arguments = '{"order": "A-17", "days": 3}' if kind == "tool_start" else None
        yield (
            STEPS,
            AgentStep(
                **of_run,
                attempt=1,
                seq=seq,
                kind=kind,
                name="order_status" if "tool" in kind else "gpt-4o-mini",
                arguments=arguments,
                text_bytes=0,
            ),
        )
    words = _WORDS.split()[:_TOKENS]
    for seq, word in enumerate(words):
        yield TOKENS, AgentToken(**of_run, attempt=1, seq=seq, text=f"{word} ")
    yield (
        COSTS,
        CostRecorded(
            **of_run,
            model="gpt-4o-mini",
            usage=usage,
            cost_micros=4_200,
            price_digest="0123456789abcdef",
            attempt=1,
            calls=2,
        ),
    )
    state = base64.b64encode(secrets.token_bytes(_CHECKPOINT_BYTES)).decode()
    yield (
        CHECKPOINTS,
        CheckpointSaved(**of_run, checkpoint_id=f"{run:032x}", turn=run // USERS + 1, data=state),
    )
    yield (
        RESULTS,
        AgentResult(
            **of_run,
            status="completed",
            output=" ".join(words),
            model="gpt-4o-mini",
            attempt=1,
            last_seq=_TOKENS - 1,
            text_sha256=f"{run:064x}",
            finish_reason="stop",
            steps=4,
            usage=usage,
            cost_micros=4_200,
            source=source,
            accepted_at_ms=now_ms,
            started_at_ms=now_ms,
            first_token_at_ms=now_ms,
        ),
    )
