"""Views on real Kafka: runs to publish, and what the views should make of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from aiokafka import AIOKafkaProducer

from millstream.schemas.base import Address, Event, Reason, Usage
from millstream.schemas.events import (
    AgentResult,
    AgentToken,
    CheckpointSaved,
    CostRecorded,
    Decision,
)
from millstream.schemas.topics import (
    BASE_TOPICS,
    CHECKPOINTS,
    COSTS,
    DECISIONS,
    RESULTS,
    TOKENS,
    TopicSpec,
)
from millstream.streams.settings import Settings
from millstream.streams.views.service import Views
from millstream.streams.wire.codec import encode
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.support import eventually

StartViews = Callable[..., Awaitable[Views]]
"""Starts views, with a session store and a collector where they are given."""

USERS = ("ada", "bob", "cleo")
SOURCE = Address(topic="requests", partition=0, offset=0)


async def publish(
    producer: AIOKafkaProducer,
    settings: Settings,
    records: Iterable[tuple[TopicSpec, Event]],
    *,
    abort: bool = False,
) -> None:
    """Commit records to their home partitions in one transaction, or abort it."""
    await producer.begin_transaction()
    for spec, event in records:
        encoded = encode(event, source="test")
        await producer.send(
            settings.topic(spec.name),
            encoded.value,
            key=encoded.key,
            partition=home_partition(event.partition_key, settings.partitions),
        )
    await (producer.abort_transaction() if abort else producer.commit_transaction())


def run_of(number: int) -> list[tuple[TopicSpec, Event]]:
    """Give the records of one run: rejected if its number divides by 5."""
    user = USERS[number % 3]
    ids = {"user_id": user, "request_id": f"r{number}", "session_id": f"{user}-s", "at_ms": number}
    rejected = number % 5 == 0
    reason = Reason(code="rate_limited", message="slow down") if rejected else None
    decision = making.decision(
        **ids, admitted=not rejected, reason=reason, generation=1, source=SOURCE
    )
    result = making.result(
        **ids,
        status="rejected" if rejected else "completed",
        source=SOURCE,
        accepted_at_ms=1,
        started_at_ms=None if rejected else 8,
        first_token_at_ms=None if rejected else 40,
    )
    if rejected:
        return [(DECISIONS, decision), (RESULTS, result)]
    return [
        (DECISIONS, decision),
        (TOKENS, making.token(**ids, attempt=0, seq=0, text="hi", tokens=2)),
        (
            COSTS,
            making.cost(
                **ids,
                model="m",
                usage=Usage(input_tokens=number, output_tokens=3),
                cost_micros=10 + number,
                price_digest="d",
            ),
        ),
        (
            CHECKPOINTS,
            making.checkpoint(**ids, checkpoint_id=f"c{number}", turn=number + 1, data="cw=="),
        ),
        (RESULTS, result),
    ]


def recount(runs: Iterable[int]) -> dict[str, dict[str, int]]:
    """Count what `run_of` published, independently of the views."""
    by_topic: dict[str, Counter[str]] = {spec.name: Counter() for spec in BASE_TOPICS}
    for number in runs:
        for spec, event in run_of(number):
            counts = by_topic[spec.name]
            match event:
                case Decision(admitted=True):
                    counts["requests|admitted|"] += 1
                case Decision():
                    counts["requests|rejected|rate_limited"] += 1
                case AgentResult():
                    counts[f"results|{event.status}"] += 1
                case AgentToken():
                    counts.update({"token_records|": 1, "streamed_tokens|": 2})
                case CostRecorded():
                    counts["cost_micros|m"] += event.cost_micros
                    counts["tokens|input"] += event.usage.input_tokens
                    counts["tokens|output"] += event.usage.output_tokens
                case CheckpointSaved():
                    counts["checkpoints|"] += 1
    return {name: dict(counts) for name, counts in by_topic.items()}


def counted(views: Views) -> dict[str, dict[str, int]]:
    """Give what the views hold, without the latencies."""
    return {
        spec.name: {
            name: amount
            for name, amount in views.totals(spec.name).totals.items()
            if not name.startswith("latency")
        }
        for spec in (DECISIONS, RESULTS, TOKENS, COSTS, CHECKPOINTS)
    }


async def counts(views: Views, runs: Iterable[int]) -> None:
    """Wait until the views hold what these runs add up to."""
    wanted = {name: value for name, value in recount(runs).items() if name in counted(views)}

    def equal() -> bool:
        assert counted(views) == wanted
        return True

    await eventually(equal)
