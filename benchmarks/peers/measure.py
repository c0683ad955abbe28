"""The engine beside other ways to answer requests on Kafka from Python, and beside raw aiokafka.

Each peer is an echo of a few lines in the environment of its own, with the strongest guarantee that
it offers and as its documentation has it; its program says which. All run in turns, on topics with
as many partitions, with the same client. The one that commits exactly once as well stands beside
the engine in further shapes (`shapes.py`).
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
from benchmarks.peers.shapes import FOUR, SHAPES, Compared, Shape, compared, resends_told, table
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
FLECHTWERK = "flechtwerk"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another framework, what it needs, and by how much the engine is to be faster.

    `argument` is what its program is told besides: its concurrency, or the seconds that an answer
    takes. `load_factor` and `in_flight` are as of a `Side`.
    """

    name: str
    framework: str
    load_factor: float
    rate_ratio_min: float | None = None
    python_min: Version = (3, 11)
    argument: float | None = None
    in_flight: tuple[int, ...] = LOADS


def _flechtwerk(shape: Shape) -> Peer:
    name = "_".join(filter(None, (FLECHTWERK, shape.name)))
    ratio = 1.5 if shape is FOUR else None
    return Peer(name, FLECHTWERK, 1, ratio, (3, 13), shape.takes_s, shape.loads)


def _peers() -> tuple[Peer, ...]:
    return (
        _flechtwerk(FOUR),
        # More workers than partitions would idle: with acks it takes one request of each at a time.
        Peer("faststream", "faststream", 0.5, rate_ratio_min=2, argument=FOUR.partitions),
        Peer("calfkit", "calfkit", 0.5, rate_ratio_min=10, argument=IN_FLIGHT),
        # As it is when nobody says how many: one request at a time.
        Peer("calfkit_default", "calfkit", 0.1, argument=1),
    )


def run(settings: Settings, *, requests: int) -> Iterator[Figure]:
    """Measure with `requests` under load per round and an eighth of them one by one.

    A peer without a Python to run on misses its bar, and it is said why. Last comes a table of the
    shapes. Raises `RuntimeError` or `subprocess.SubprocessError` if a process fails or is too slow.
    """
    rows: list[Compared] = []
    for shape in SHAPES:
        peers = _peers() if shape is FOUR else (_flechtwerk(shape),)
        engine = "_".join(filter(None, (ENGINE, shape.name)))
        samples = _measured(engine, peers, shape, settings, requests)
        yield from _figures(engine, samples, peers)
        if (beside := samples.get(peers[0].name)) is None:
            continue
        for row in compared(shape, samples[engine], beside):
            name = f"{engine}_cpu_over_{peers[0].name}_{row.in_flight}_in_flight"
            yield Figure(name, row.cpu_ratio, "times")
            rows.append(row)
    for line in table(rows, ENGINE, FLECHTWERK):
        print(line, flush=True)


def _measured(
    engine: str, peers: Sequence[Peer], shape: Shape, settings: Settings, requests: int
) -> dict[str, Samples]:
    """Start the sides of a shape and ask them in turns; give the samples of those that started."""
    asked = int(requests * shape.requests_share)
    logs: dict[str, Path] = {}
    with ExitStack() as stack:
        sides = [raw_side(settings, stack, in_flight=LOADS)] if shape is FOUR else []
        sides.append(
            engine_side(
                engine,
                settings,
                stack,
                takes_s=shape.takes_s,
                in_flight=shape.loads,
                partitions=shape.partitions,
            )
        )
        for peer in peers:
            own = deployment(settings, partitions=shape.partitions)
            logs[peer.name] = own.data_dir / f"{peer.name}.log"
            try:
                sides.append(_side(peer, own, logs[peer.name], stack))
            except PythonMissing as missing:
                print(f"{peer.name} skipped: {missing}", flush=True)
        samples = ask_client(settings, tuple(sides), requests=asked)
    for name in samples:
        if name.startswith(FLECHTWERK):
            print(resends_told(name, logs[name]), flush=True)
    return samples


def _side(peer: Peer, own: Settings, log: Path, stack: ExitStack) -> Side:
    python = environment(peer.framework, peer.python_min)
    topics = tuple(
        TopicSpec(f"{peer.name}-{kind}", AgentRequest, "user", f"A peer's {kind}", 3_600_000)
        for kind in ("requests", "responses")
    )
    asyncio.run(ensure_topics(own, topics))
    requests, responses = (own.topic(spec.name) for spec in topics)
    program = Path(__file__).resolve().with_name(f"{peer.framework}_echo.py")
    arguments = [str(program), own.kafka, requests, responses]
    if peer.argument is not None:
        arguments.append(f"{peer.argument:g}")
    process = stack.enter_context(running(arguments, child_environment(own), log, python=python))
    form = process.ready.get("request")
    return Side(
        peer.name,
        process.pid,
        requests,
        responses,
        load_factor=peer.load_factor,
        in_flight=peer.in_flight,
        form=Form(**form) if isinstance(form, dict) else None,
    )


def _figures(engine: str, samples: dict[str, Samples], peers: Sequence[Peer]) -> Iterator[Figure]:
    for name, one in samples.items():
        yield from side_figures(name, one)
    for peer in peers:
        for in_flight in peer.in_flight:
            name = f"{engine}_rate_over_{peer.name}_{in_flight}_in_flight"
            target = peer.rate_ratio_min if in_flight == IN_FLIGHT else None
            if peer.name not in samples:
                yield Figure(name, math.nan, "times", target)
                continue
            ours, theirs = (samples[one].loads[in_flight].rate_per_s for one in (engine, peer.name))
            yield Figure(name, median_ratio(ours, theirs), "times", target)
