"""The engine beside other ways to answer requests on Kafka from Python, and beside raw aiokafka.

Each peer is an echo of a few lines in the environment of its own, with the strongest guarantee that
it offers and as its documentation has it; its program says which. All run in turns, on topics with
as many partitions, with the same client.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measures.engine import ENGINE, ORIENTATION_IN_FLIGHT, engine_side
from benchmarks.peers.install import PythonMissing, Version, environment
from benchmarks.programs.client import IN_FLIGHT, Form, Samples, Side
from benchmarks.report import Figure
from benchmarks.services import running
from benchmarks.sides import ask_client, deployment, median_ratio, raw_side, side_figures
from millstream.schemas.events import AgentRequest
from millstream.schemas.topics import TopicSpec
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings, child_environment

__all__ = ["run"]

LOADS = (ORIENTATION_IN_FLIGHT, IN_FLIGHT)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another framework, what it needs, and by how much the engine is to be faster.

    `workers` is the concurrency that its program is told, `load_factor` as of a `Side`.
    """

    name: str
    framework: str
    load_factor: float
    rate_ratio_min: float | None = None
    python_min: Version = (3, 11)
    workers: int | None = None


def _peers(partitions: int) -> tuple[Peer, ...]:
    return (
        Peer("flechtwerk", "flechtwerk", 1, rate_ratio_min=1.5, python_min=(3, 13)),
        # More workers than partitions would idle: with acks it takes one request of each at a time.
        Peer("faststream", "faststream", 0.5, rate_ratio_min=2, workers=partitions),
        Peer("calfkit", "calfkit", 0.5, rate_ratio_min=10, workers=IN_FLIGHT),
        # As it is when nobody says how many: one request at a time.
        Peer("calfkit_default", "calfkit", 0.1, workers=1),
    )


def run(settings: Settings, *, requests: int) -> Iterator[Figure]:
    """Measure with `requests` under load per round and an eighth of them one by one.

    A peer without a Python to run on misses its bar, and it is said why. Raises `RuntimeError` or
    `subprocess.SubprocessError` if a process fails or is too slow.
    """
    with ExitStack() as stack:
        raw = raw_side(settings, stack, in_flight=LOADS)
        sides = [raw, engine_side(ENGINE, settings, stack, in_flight=LOADS)]
        peers = _peers(settings.partitions)
        for peer in peers:
            try:
                sides.append(_side(peer, settings, stack))
            except PythonMissing as missing:
                print(f"{peer.name} skipped: {missing}", flush=True)
        samples = ask_client(settings, tuple(sides), requests=requests)
    yield from _figures(samples, peers)


def _side(peer: Peer, settings: Settings, stack: ExitStack) -> Side:
    python = environment(peer.framework, peer.python_min)
    own = deployment(settings)
    topics = tuple(
        TopicSpec(f"{peer.name}-{kind}", AgentRequest, "user", f"A peer's {kind}", 3_600_000)
        for kind in ("requests", "responses")
    )
    asyncio.run(ensure_topics(own, topics))
    requests, responses = (own.topic(spec.name) for spec in topics)
    program = Path(__file__).resolve().with_name(f"{peer.framework}_echo.py")
    arguments = [str(program), own.kafka, requests, responses]
    if peer.workers is not None:
        arguments.append(str(peer.workers))
    process = stack.enter_context(
        running(
            arguments,
            child_environment(own),
            own.data_dir / f"{peer.name}.log",
            python=python,
        )
    )
    form = process.ready.get("request")
    return Side(
        peer.name,
        process.pid,
        requests,
        responses,
        load_factor=peer.load_factor,
        in_flight=LOADS,
        form=Form(**form) if isinstance(form, dict) else None,
    )


def _figures(samples: dict[str, Samples], peers: Sequence[Peer]) -> Iterator[Figure]:
    for name, one in samples.items():
        yield from side_figures(name, one)
    for peer in peers:
        for in_flight in LOADS:
            name = f"{ENGINE}_rate_over_{peer.name}_{in_flight}_in_flight"
            target = peer.rate_ratio_min if in_flight == IN_FLIGHT else None
            if peer.name not in samples:
                yield Figure(name, math.nan, "times", target)
                continue
            ours, theirs = (samples[one].loads[in_flight].rate_per_s for one in (ENGINE, peer.name))
            yield Figure(name, median_ratio(ours, theirs), "times", target)
