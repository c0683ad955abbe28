"""What an operation on a session costs, beside what it cannot do without, in turns.

A durable one is compared with a transaction of one record and a round trip to Redis behind it, a
read with that round trip alone. The worker is a process of its own, as it is deployed, and so is
the client whose clock counts.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict

import redis.asyncio
import uvloop

from benchmarks.report import Figure, percentile
from benchmarks.services import PROJECT
from benchmarks.sides import deployment, worker_side
from millstream.schemas.events import AgentToken
from millstream.schemas.topics import RESULTS
from millstream.streams.broker.batches import Outgoing, send_batches
from millstream.streams.broker.clients import transactional_producer
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.sessions.manager import SessionManager
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings, child_environment, load_settings
from millstream.streams.wire.codec import encode

__all__ = ["run"]

ROUNDS = 5
TIMES = 200
WARM_UP = 50
TIMEOUT_S = 300.0
_USER, _SESSION = "ada", "s"

Operation = Callable[[], Awaitable[object]]


def run(settings: Settings) -> list[Figure]:
    """Measure in a process of its own; give the figures. Raises if it fails or is too slow."""
    own = deployment(settings)
    with ExitStack() as stack:
        worker_side("sessions", own, stack)
        client = subprocess.run(
            [sys.executable, "-m", "benchmarks.measures.sessions.operations"],
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            env=child_environment(own),
            check=True,
            timeout=TIMEOUT_S,
        )
    return [Figure(**figure) for figure in json.loads(client.stdout)]


async def _measure() -> list[Figure]:
    settings = load_settings()
    async with AsyncExitStack() as stack:
        store = RedisSessionStore(settings)
        stack.push_async_callback(store.close)
        bus = await stack.enter_async_context(KafkaBus(settings))
        sessions = await stack.enter_async_context(SessionManager(bus, store, timeout_s=60.0))
        await sessions.create(_USER, _SESSION, metadata={"customer": "7"})
        bare = redis.asyncio.Redis.from_url(settings.redis_url)
        stack.push_async_callback(bare.aclose)
        await bare.hset("bench", mapping={f"field{number}": "x" * 20 for number in range(12)})
        producer = transactional_producer(settings, f"bench-{secrets.token_hex(4)}")
        await producer.start()
        stack.push_async_callback(producer.stop)
        record = _record(settings)

        async def transaction() -> None:
            async with producer.transaction():
                await send_batches(producer, [record])
            await bare.hgetall("bench")

        took_s = await _in_turns(
            {
                "publish": lambda: bus.publish(_token()),
                "transaction": transaction,
                "touch": lambda: sessions.touch(_USER, _SESSION),
                "create": lambda: sessions.create(_USER),
                "round_trip": lambda: bare.hgetall("bench"),
                "get": lambda: sessions.get(_USER, _SESSION),
            }
        )
    p50 = {name: percentile(values, 50) for name, values in took_s.items()}
    figures = [Figure(f"sessions_{name}_p50", took * 1e3, "ms") for name, took in p50.items()]
    for name in ("touch", "create"):
        ratio = p50[name] / p50["transaction"]
        figures.append(Figure(f"sessions_{name}_over_transaction", ratio, "times", 1.5, True))
    read = p50["get"] / p50["round_trip"]
    return [*figures, Figure("sessions_get_over_round_trip", read, "times", 1.3, True)]


async def _in_turns(operations: dict[str, Operation]) -> dict[str, list[float]]:
    took_s: dict[str, list[float]] = {name: [] for name in operations}
    for turn in range(1 + ROUNDS):
        for name, operation in operations.items():
            for _ in range(TIMES if turn else WARM_UP):
                began_s = time.perf_counter()
                await operation()
                if turn:  # the first turn warms up
                    took_s[name].append(time.perf_counter() - began_s)
    return took_s


def _token() -> AgentToken:
    return AgentToken(
        user_id=_USER, request_id="r1", session_id=_SESSION, attempt=0, seq=0, text="x" * 300
    )


def _record(settings: Settings) -> Outgoing:
    # Of a namespace of its own: nobody is to take it for a lane's.
    topic = settings.topic(RESULTS.name)
    return Outgoing(topic, 0, encode(_token(), source="/bench"))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measured = runner.run(_measure())
    print(json.dumps([asdict(figure) for figure in measured]))
