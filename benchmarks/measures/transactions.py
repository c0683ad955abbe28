"""What a transaction costs: aiokafka against confluent-kafka (librdkafka), in turns.

Each transaction holds the records of ten runs as a lane commits them: one partition of three
topics, three producers in rotation, one transaction at a time. The clients run in a process of
their own, whose CPU time is counted, librdkafka's threads included.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import confluent_kafka
import uvloop
from aiokafka import AIOKafkaProducer

from benchmarks.librdkafka import librdkafka
from benchmarks.report import Figure, percentile
from millstream.schemas.events import AgentToken
from millstream.schemas.topics import COSTS, DECISIONS, RESULTS
from millstream.streams.broker.batches import Outgoing, send_batches
from millstream.streams.broker.clients import transactional_producer
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings, child_environment, load_settings
from millstream.streams.wire.codec import encode

__all__ = ["run"]

ROUNDS = 5
TRANSACTIONS = 200
WARM_UP = 30
RUNS = 10
PRODUCERS = 3
TIMEOUT_S = 30.0
_TOPICS = (RESULTS, DECISIONS, COSTS)

Commit = Callable[[], Awaitable[None]]


def run(settings: Settings) -> list[Figure]:
    """Measure in a process of its own; give the figures. Raises if it fails."""
    client = subprocess.run(
        [sys.executable, "-m", "benchmarks.measures.transactions"],
        env=child_environment(settings),
        stdout=subprocess.PIPE,
        check=True,
    )
    return [Figure(**figure) for figure in json.loads(client.stdout)]


async def _measure() -> list[Figure]:
    settings = load_settings(namespace=f"bench-{secrets.token_hex(4)}")
    await ensure_topics(settings, _TOPICS)
    records = _records(settings)
    producers = [transactional_producer(settings, f"aiokafka-{at}") for at in range(PRODUCERS)]
    for producer in producers:
        await producer.start()
    clients: dict[str, Commit] = {
        "aiokafka": _aiokafka(producers, records),
        "confluent": _confluent(settings, records),
    }
    took_s: dict[str, list[float]] = {name: [] for name in clients}
    cpu_s: dict[str, list[float]] = {name: [] for name in clients}
    for turn in range(1 + ROUNDS):
        for name, commit in clients.items():
            cpu_before = _cpu_s()
            took = [await _timed(commit) for _ in range(TRANSACTIONS if turn else WARM_UP)]
            if turn:  # the first turn warms up
                took_s[name].append(percentile(took, 50))
                cpu_s[name].append((_cpu_s() - cpu_before) / TRANSACTIONS)
    for producer in producers:
        await producer.stop()
    figures = []
    for name in clients:
        p50_ms = statistics.median(took_s[name]) * 1000
        cpu_ms = statistics.median(cpu_s[name]) * 1000
        figures.append(Figure(f"{name}_transaction_p50", p50_ms, "ms"))
        figures.append(Figure(f"{name}_transaction_cpu", cpu_ms, "ms"))
    return figures


def _records(settings: Settings) -> list[Outgoing]:
    event = AgentToken(
        user_id="user-1", request_id="request-1", session_id="s", attempt=1, seq=0, text="x" * 400
    )
    encoded = encode(event, source="/bench")
    return [
        Outgoing(settings.topic(spec.name), 1, encoded) for _ in range(RUNS) for spec in _TOPICS
    ]


def _aiokafka(producers: list[AIOKafkaProducer], records: list[Outgoing]) -> Commit:
    turns = itertools.cycle(producers)

    async def commit() -> None:
        producer = next(turns)
        await producer.begin_transaction()
        await send_batches(producer, records)
        await producer.commit_transaction()

    return commit


def _confluent(settings: Settings, records: list[Outgoing]) -> Commit:
    producers = [
        confluent_kafka.Producer(
            {
                **librdkafka(settings),
                "transactional.id": f"{settings.namespace}-confluent-{number}",
                "linger.ms": 0,
            }
        )
        for number in range(PRODUCERS)
    ]
    for producer in producers:
        producer.init_transactions(TIMEOUT_S)
    turns = itertools.cycle(producers)

    async def commit() -> None:  # it blocks: the loop has nothing else to do here
        producer = next(turns)
        producer.begin_transaction()
        for record in records:
            one = record.encoded
            producer.produce(
                record.topic, one.value, one.key, record.partition, headers=list(one.headers)
            )
        producer.commit_transaction(TIMEOUT_S)

    return commit


async def _timed(commit: Commit) -> float:
    began = time.perf_counter()
    await commit()
    return time.perf_counter() - began


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system


if __name__ == "__main__":
    print(json.dumps([asdict(figure) for figure in uvloop.run(_measure())]))
