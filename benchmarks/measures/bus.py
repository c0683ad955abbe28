"""The event bus against aiokafka itself: acknowledged publish, batches, memory of subscriptions.

`python -m benchmarks.measures.bus` needs a Kafka at MILLSTREAM_KAFKA; it works on topics of its
own. The client runs in a process of its own. Both sides write the same bytes to the same topic, in
turns, so that whatever else the machine does befalls both. The raw side finds its bytes ready made;
the bus has to encode them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import secrets
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from aiokafka import AIOKafkaProducer

from benchmarks.report import Figure, percentile
from millstream.schemas.events import AgentToken
from millstream.schemas.topics import TOKENS
from millstream.streams.broker.clients import connecting
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.api import Delivery, EventFilter
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings, load_settings
from millstream.streams.wire.codec import Encoded, encode
from millstream.streams.wire.partitioning import home_partition

__all__ = ["run"]

PUBLISHES = 2000
WARM_UP = 300
BATCH_EVENTS = 20_000
BATCH_ROUNDS = 7
RAW_BATCH_BYTES = 131_072
"""Size of the batches that the raw side fills by hand: the fastest of 16, 128 and 1000 KiB."""
SUBSCRIPTIONS = 1000
USERS = 100

PUBLISH_P50_RATIO_MAX = 1.3
BATCH_RATE_RATIO_MIN = 0.7

Ready = list[tuple[int, Encoded]]


def run(settings: Settings) -> list[Figure]:
    """Measure in a process of its own; give the figures. Raises if the client fails."""
    client = subprocess.run(
        [sys.executable, "-m", "benchmarks.measures.bus", "--client", settings.kafka],
        stdout=subprocess.PIPE,
        check=True,
    )
    return [Figure(**figure) for figure in json.loads(client.stdout)]


async def _client(kafka: str) -> list[Figure]:
    settings = Settings(kafka=kafka, namespace=f"bench-{secrets.token_hex(4)}")
    await ensure_topics(settings, [TOKENS])
    events = _events()
    ready = [
        (home_partition(event.partition_key, settings.partitions), encode(event, source="/raw"))
        for event in events
    ]
    # What lies ready is not walked by every garbage collection of either side.
    gc.collect()
    gc.freeze()
    return [
        *await _publish(settings, events, ready),
        *await _batches(settings, events, ready),
        await _subscriptions(settings),
    ]


def _events() -> list[AgentToken]:
    now_ms = time.time_ns() // 1_000_000
    return [
        AgentToken(
            user_id=f"user-{at % USERS}",
            request_id=f"request-{at}",
            session_id=f"session-{at % USERS}",
            attempt=1000,
            seq=at,
            text="some words of an answer ",
            at_ms=now_ms,
        )
        for at in range(BATCH_EVENTS)
    ]


async def _publish(settings: Settings, events: list[AgentToken], ready: Ready) -> list[Figure]:
    topic = settings.topic(TOKENS.name)
    raw_s: list[float] = []
    bus_s: list[float] = []
    async with (
        AIOKafkaProducer(**connecting(settings), enable_idempotence=True) as raw,
        KafkaBus(settings) as bus,
    ):
        for at in range(WARM_UP + PUBLISHES):
            partition, record = ready[at]
            began = time.perf_counter()
            await raw.send_and_wait(
                topic, record.value, record.key, partition=partition, headers=record.headers
            )
            between = time.perf_counter()
            await bus.publish(events[at])
            ended = time.perf_counter()
            if at >= WARM_UP:
                raw_s.append(between - began)
                bus_s.append(ended - between)
    raw_ms, bus_ms = percentile(raw_s, 50) * 1000, percentile(bus_s, 50) * 1000
    return [
        Figure("aiokafka_publish_p50", raw_ms, "ms"),
        Figure("aiokafka_publish_p99", percentile(raw_s, 99) * 1000, "ms"),
        Figure("bus_publish_p50", bus_ms, "ms"),
        Figure("bus_publish_p99", percentile(bus_s, 99) * 1000, "ms"),
        Figure(
            "bus_publish_p50_over_aiokafka",
            bus_ms / raw_ms,
            "times",
            PUBLISH_P50_RATIO_MAX,
            at_most=True,
        ),
    ]


async def _batches(settings: Settings, events: list[AgentToken], ready: Ready) -> list[Figure]:
    topic = settings.topic(TOKENS.name)
    async with (
        AIOKafkaProducer(**connecting(settings), enable_idempotence=True) as raw,
        AIOKafkaProducer(
            **connecting(settings),
            enable_idempotence=True,
            max_batch_size=RAW_BATCH_BYTES,
        ) as by_hand,
        KafkaBus(settings) as bus,
    ):
        sides: dict[str, Callable[[], Awaitable[object]]] = {
            "send": lambda: _send_each(raw, topic, ready),
            "by_hand": lambda: _send_filled(by_hand, topic, ready),
            "bus": lambda: bus.publish_batch(events),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(1 + BATCH_ROUNDS):
            for name, publish in sides.items():
                began = time.perf_counter()
                await publish()
                if turn:  # the first turn warms up
                    rates[name].append(len(events) / (time.perf_counter() - began))
    send, by_hand_rate, of_bus = (statistics.median(rates[name]) for name in sides)
    return [
        Figure("aiokafka_send_rate", send, "records/s"),
        Figure("aiokafka_send_batch_rate", by_hand_rate, "records/s"),
        Figure("bus_publish_batch_rate", of_bus, "records/s"),
        Figure("bus_batch_over_aiokafka_send", of_bus / send, "times", BATCH_RATE_RATIO_MIN),
        # No bar: batches filled by hand from bytes that lie ready are the broker's limit, not
        # what one writes. Encoding alone takes longer than such a batch leaves for a record.
        Figure("bus_batch_over_aiokafka_send_batch", of_bus / by_hand_rate, "times"),
    ]


async def _send_each(producer: AIOKafkaProducer, topic: str, ready: Ready) -> None:
    """What one writes with aiokafka: send all, then await all."""
    await asyncio.gather(
        *[
            await producer.send(
                topic, record.value, record.key, partition=partition, headers=record.headers
            )
            for partition, record in ready
        ]
    )


async def _send_filled(producer: AIOKafkaProducer, topic: str, ready: Ready) -> None:
    """The fastest that aiokafka goes: batches filled by hand from bytes that lie ready."""
    lanes: dict[int, list[Encoded]] = {}
    for partition, record in ready:
        lanes.setdefault(partition, []).append(record)

    async def fill(partition: int, records: list[Encoded]) -> None:
        sent = []
        batch = producer.create_batch()
        for one in records:
            while (
                batch.append(timestamp=None, key=one.key, value=one.value, headers=one.headers)
                is None
            ):
                sent.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
        batch.close()
        sent.append(await producer.send_batch(batch, topic, partition=partition))
        await asyncio.gather(*sent)

    await asyncio.gather(*(fill(*lane) for lane in lanes.items()))


async def _subscriptions(settings: Settings) -> Figure:
    def handler(_: Delivery) -> None:
        """Nothing: its place on the bus is what is weighed."""

    async with KafkaBus(settings) as bus:
        await bus.subscribe(handler, topics=[TOKENS])
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        # At once: each waits for the reader to come by, a tenth of a second where nothing happens.
        await asyncio.gather(
            *(
                bus.subscribe(handler, topics=[TOKENS], filter=EventFilter(user_id=f"user-{at}"))
                for at in range(SUBSCRIPTIONS)
            )
        )
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return Figure("bus_bytes_per_subscription", (after - before) / SUBSCRIPTIONS, "bytes")


def main() -> None:
    """Print the figures and their bars; exit status 1 if one was missed."""
    if sys.argv[1:2] == ["--client"]:
        print(json.dumps([asdict(figure) for figure in asyncio.run(_client(sys.argv[2]))]))
        return
    met = [figure.show() for figure in run(load_settings())]
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
