"""What a hundred thousand sessions cost a worker that is started again, beside a thousand.

Both deployments have a thousand sessions that were used last. Their heads and checkpoints are
written as a lane writes them, with the content of one real conversation; each worker is started
once to take its snapshot, and then in turns. Last, with the view emptied, an idle one goes on.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

import redis.asyncio

from benchmarks.report import Figure, percentile
from benchmarks.services import Process, resident_kib, running
from benchmarks.sides import WORKER, deployment
from millstream.agents.executor import wall_clock_ms
from millstream.schemas.events import AgentRequest, AgentResult, CheckpointSaved, SessionUpdated
from millstream.schemas.topics import CHECKPOINTS, RESULTS, SESSIONS, TopicSpec
from millstream.streams.broker.batches import Outgoing, send_batches
from millstream.streams.broker.clients import transactional_producer
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings, child_environment
from millstream.streams.views.session_rebuild import rebuild_sessions
from millstream.streams.wire.codec import encode
from millstream.streams.wire.digests import digest_of
from millstream.streams.wire.partitioning import home_partition

__all__ = ["run"]

FEW, MANY = 1_000, 100_000
USERS = 1_000
RESTARTS = 3
PAGES = 100
RESUMES = 20
_AT_ONCE = 1_000


def run(settings: Settings) -> Iterator[Figure]:
    """Measure; give the figures. Raises if a process fails or is too slow."""
    sizes = {count: deployment(settings) for count in (FEW, MANY)}
    for count, own in sizes.items():
        saved = asyncio.run(_conversation(own))
        asyncio.run(_fill(own, count, saved))
        took_s, _ = _restarted(own, f"sessions-{count}-first")
        yield Figure(f"sessions_{count}_first_start", took_s, "s")
    ready_s: dict[int, list[float]] = {count: [] for count in sizes}
    memory: dict[int, list[float]] = {count: [] for count in sizes}
    for _ in range(RESTARTS):
        for count, own in sizes.items():
            took_s, kib = _restarted(own, f"sessions-{count}")
            ready_s[count].append(took_s)
            memory[count].append(kib / 1024)
    for count in sizes:
        yield Figure(f"sessions_{count}_restart", statistics.median(ready_s[count]), "s")
        yield Figure(f"sessions_{count}_memory", statistics.median(memory[count]), "MiB")
    for name, taken in (("restart", ready_s), ("memory", memory)):
        ratio = statistics.median(taken[MANY]) / statistics.median(taken[FEW])
        yield Figure(f"sessions_{name}_many_over_few", ratio, "times", 1.5, at_most=True)
    yield from asyncio.run(_view(sizes[MANY]))
    with ExitStack() as stack:
        _worker(sizes[MANY], "sessions-resumed", stack)
        yield from asyncio.run(_resumed(sizes[MANY]))


def _worker(own: Settings, name: str, stack: ExitStack) -> Process:
    log = own.data_dir / f"{name}.log"
    return stack.enter_context(running(WORKER, child_environment(own), log, 180.0))


def _restarted(own: Settings, name: str) -> tuple[float, float]:
    """Start a worker and end it; give how long it took to be ready, in s, and its KiB then."""
    with ExitStack() as stack:
        began = time.perf_counter()
        process = _worker(own, name, stack)
        return time.perf_counter() - began, resident_kib(process.pid)


async def _conversation(own: Settings) -> CheckpointSaved:
    """Have one real conversation; give its checkpoint."""
    with ExitStack() as stack:
        await asyncio.to_thread(_worker, own, "sessions-conversation", stack)
        async with KafkaBus(own) as bus, bus.tail((CHECKPOINTS,)) as coming:
            await _ask(bus, "first", "first")
            async for one in coming:
                if isinstance(one.event, CheckpointSaved):
                    return one.event
    message = "no checkpoint came"
    raise RuntimeError(message)


async def _ask(bus: KafkaBus, user_id: str, session_id: str) -> str:
    request_id = secrets.token_hex(8)
    words = "say: " + "a sentence of an answer, " * 10
    request = AgentRequest(
        user_id=user_id, session_id=session_id, request_id=request_id, input=words
    )
    await bus.publish(request)
    return request_id


async def _fill(own: Settings, count: int, like: CheckpointSaved) -> None:
    producer = transactional_producer(own, f"{own.namespace}-fill")
    await producer.start()
    try:
        for first in range(0, count, _AT_ONCE):
            saved = [_checkpoint(number, like) for number in range(first, first + _AT_ONCE)]
            async with producer.transaction():
                offsets = await send_batches(
                    producer, [_outgoing(own, CHECKPOINTS, one) for one in saved]
                )
                heads = [_head(*pair) for pair in zip(saved, offsets, strict=True)]
                await send_batches(producer, [_outgoing(own, SESSIONS, one) for one in heads])
    finally:
        await producer.stop()


def _checkpoint(number: int, like: CheckpointSaved) -> CheckpointSaved:
    return like.model_copy(
        update={
            "user_id": f"user-{number % USERS}",
            "session_id": f"session-{number}",
            "request_id": f"request-{number}",
            "at_ms": wall_clock_ms(),
        }
    )


def _head(saved: CheckpointSaved, offset: int) -> SessionUpdated:
    return SessionUpdated(
        user_id=saved.user_id,
        session_id=saved.session_id,
        request_id=saved.request_id,
        at_ms=saved.at_ms,
        created_at_ms=saved.at_ms,
        checkpoint_id=saved.checkpoint_id,
        checkpoint_offset_min=offset,
        checkpoint_digest=digest_of(saved),
        checkpoint_bytes=len(saved.data),
        turn=saved.turn,
    )


def _outgoing(own: Settings, spec: TopicSpec, event: CheckpointSaved | SessionUpdated) -> Outgoing:
    home = home_partition(event.partition_key, own.partitions)
    return Outgoing(own.topic(spec.name), home, encode(event, source="/bench"))


async def _view(own: Settings) -> list[Figure]:
    store, reader = RedisSessionStore(own), PartitionReader(own)
    await reader.start()
    try:
        began = time.perf_counter()
        await rebuild_sessions(own, store, reader)
        rebuilt_s = time.perf_counter() - began
        took_s = []
        for number in range(PAGES):
            began = time.perf_counter()
            await store.list("default", f"user-{number}", limit=50)
            took_s.append(time.perf_counter() - began)
    finally:
        await reader.stop()
        await store.close()
    return [
        Figure(f"sessions_{MANY}_rebuild", rebuilt_s, "s", 60.0, at_most=True),
        Figure(f"sessions_{MANY}_page_p50", percentile(took_s, 50) * 1e3, "ms"),
        Figure(f"sessions_{MANY}_page_max", max(took_s) * 1e3, "ms", 20.0, at_most=True),
    ]


async def _resumed(own: Settings) -> list[Figure]:
    """Empty Redis, and ask in sessions that were idle, one after the other."""
    async with redis.asyncio.Redis.from_url(own.redis_url) as client:
        keys = [key async for key in client.scan_iter(f"{own.namespace}:*", count=_AT_ONCE)]
        for first in range(0, len(keys), _AT_ONCE):
            await client.unlink(*keys[first : first + _AT_ONCE])
    took_s = []
    async with KafkaBus(own) as bus, bus.tail((RESULTS,)) as coming:
        for number in range(RESUMES):
            session = number * (MANY // RESUMES)
            began = time.perf_counter()
            request_id = await _ask(bus, f"user-{session % USERS}", f"session-{session}")
            async for one in coming:
                if isinstance(one.event, AgentResult) and one.event.request_id == request_id:
                    break
            took_s.append(time.perf_counter() - began)
    return [
        Figure(f"sessions_{MANY}_first_resume", took_s[0] * 1e3, "ms", 1000.0, at_most=True),
        Figure(f"sessions_{MANY}_resume_p50", percentile(took_s, 50) * 1e3, "ms"),
    ]
