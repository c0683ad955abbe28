"""How long it takes to read history, beside a raw consumer of the same partitions, in turns.

The raw one is aiokafka's as it comes: it reads committed records and looks at none. Each reader is
a process of its own; the clock of a command includes its start, that of the others does not.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.measures.history.filling import RUN_RECORDS, USERS, fill, names_of
from benchmarks.report import Figure
from benchmarks.services import PROJECT
from benchmarks.sides import deployment
from millstream.schemas.topics import BASE_TOPICS
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.api import EventFilter
from millstream.streams.history.replay import HISTORY_TOPICS, HistoryQuery, read_history
from millstream.streams.settings import Settings, child_environment, load_settings
from millstream.streams.wire.partitioning import home_partition

__all__ = ["run"]

SIZES = (50_000, 200_000, 1_000_000)
BARS_FROM = 1_000_000
ROUNDS = 3
TIMEOUT_S = 300.0

API_OVER_RAW_MAX = 1.5
JSON_OVER_RAW_MAX = 2.5
REQUEST_OVER_RAW_MAX = 1.2
LIMIT_MAX_S = 1.5


def run(settings: Settings, sizes: Collection[int] = SIZES) -> Iterator[Figure]:
    """Measure at each size, one log that grows; give the figures. Raises if a reader fails."""
    own = deployment(settings)
    asyncio.run(ensure_topics(own, BASE_TOPICS))
    runs = 0
    for size in sizes:
        began = time.perf_counter()
        asyncio.run(fill(own, range(runs, size // RUN_RECORDS)))
        runs = size // RUN_RECORDS
        yield Figure(f"history_{size}_fill", time.perf_counter() - began, "s")
        yield from _figures(own, size, runs)


def _figures(own: Settings, size: int, runs: int) -> Iterator[Figure]:
    one = names_of(runs // 2)
    user, session, request = one["user_id"], one["session_id"], one["request_id"]
    home = str(home_partition(user, own.partitions))
    sides: dict[str, tuple[str, ...]] = {
        "raw": ("raw",),
        "raw_partition": ("raw", home),
        "api": ("api",),
        "api_user": ("api", f"user_id={user}"),
        "api_session": ("api", f"user_id={user}", f"session_id={session}"),
        "api_request": ("api", f"user_id={user}", f"request_id={request}"),
        "json": ("--json",),
        "text": (),
        "json_session": ("--json", "--session", session),
        "json_request": ("--json", "--request", request),
        "json_results": ("--json", "--topic", "results"),
        "json_limit_20": ("--json", "--limit", "20"),
        "json_user_limit_20": ("--json", "--user", user, "--limit", "20"),
    }
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, arguments in sides.items():
            took[name].append(_read(own, arguments, _expected(name, size, runs)))
    for name, seconds in took.items():
        bar = LIMIT_MAX_S if name == "json_limit_20" and size >= BARS_FROM else None
        yield Figure(f"history_{size}_{name}", statistics.median(seconds), "s", bar, at_most=True)
    for name, beside, most in (
        ("api", "raw", API_OVER_RAW_MAX),
        ("json", "raw", JSON_OVER_RAW_MAX),
        ("text", "raw", None),
        ("api_request", "raw_partition", REQUEST_OVER_RAW_MAX),
        ("api_user", "raw_partition", None),
    ):
        ratio = statistics.median(took[name]) / statistics.median(took[beside])
        bar = most if size >= BARS_FROM else None
        yield Figure(f"history_{size}_{name}_over_{beside}", ratio, "times", bar, at_most=True)


def _expected(name: str, size: int, runs: int) -> int | None:
    """Give how many records a side must find, `None` where that is not the same for all."""
    of_user = len(range(runs // 2 % USERS, runs, USERS)) * RUN_RECORDS
    return {
        "raw": size,
        "api": size,
        "json": size,
        "api_user": of_user,
        "api_request": RUN_RECORDS,
        "json_request": RUN_RECORDS,
        "json_results": runs,
        "json_limit_20": 20,
        "json_user_limit_20": 20,
    }.get(name)


def _read(own: Settings, arguments: tuple[str, ...], expected: int | None) -> float:
    """Read in a process of its own; give how long it took, in s. Raises `RuntimeError`."""
    if arguments and arguments[0] in {"raw", "api"}:
        ended = _run(own, ("benchmarks.measures.history.reading", *arguments))
        told, took = ended.split()
        found, took_s = int(told), float(took)
    else:
        began = time.perf_counter()
        found = _run(own, ("millstream.gateway", "history", *arguments)).count(b"\n")
        took_s = time.perf_counter() - began
    if expected is not None and found != expected:
        message = f"{arguments!r} found {found} records, not {expected}"
        raise RuntimeError(message)
    return took_s


def _run(own: Settings, module: tuple[str, ...]) -> bytes:
    return subprocess.run(
        [sys.executable, "-m", *module],
        stdout=subprocess.PIPE,
        cwd=PROJECT,
        env=child_environment(own),
        check=True,
        timeout=TIMEOUT_S,
    ).stdout


async def _raw(own: Settings, partitions: Collection[int]) -> int:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=own.kafka,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    found = 0
    async with consumer:
        unread = {
            TopicPartition(own.topic(spec.name), one)
            for spec in HISTORY_TOPICS
            for one in partitions
        }
        consumer.assign(unread)
        ends = await consumer.end_offsets(unread)
        starts = await consumer.beginning_offsets(unread)
        for where, start in starts.items():
            consumer.seek(where, start)
        while True:
            for where in tuple(unread):
                if await consumer.position(where) >= ends[where]:
                    unread.discard(where)
                    consumer.pause(where)
            if not unread:
                return found
            got = await consumer.getmany(*unread, timeout_ms=200)
            found += sum(map(len, got.values()))


async def _api(own: Settings, wanted: Mapping[str, Any]) -> int:
    found = 0
    async for _ in read_history(own, HistoryQuery(wanted=EventFilter(**wanted))):
        found += 1
    return found


def _measure(kind: str, *given: str) -> None:
    own = load_settings()
    began = time.perf_counter()
    if kind == "raw":
        found = asyncio.run(_raw(own, [int(one) for one in given] or range(own.partitions)))
    else:
        found = asyncio.run(_api(own, dict(one.split("=") for one in given)))
    print(found, time.perf_counter() - began)


if __name__ == "__main__":
    _measure(*sys.argv[1:])
