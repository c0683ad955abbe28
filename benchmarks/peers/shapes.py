"""The shapes of a load in which the engine stands beside flechtwerk, and the table of them.

Both commit exactly once, and differ in what a transaction is: flechtwerk's is a batch of one
partition, up to 500 records that begin and end together, the engine's whatever has ended by then.
So which is faster depends on partitions, on how much is in flight, and on what a run takes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.programs.client import IN_FLIGHT, Samples
from benchmarks.report import percentile
from benchmarks.sides import median_ratio

__all__ = ["FOUR", "SHAPES", "Compared", "Shape", "compared", "resends_told", "table"]

_RESENT = "Got error produce response on topic-partition"
"""What aiokafka logs as it is to send a refused batch again, after `retry_backoff_ms`."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A load: on so many partitions, with so many in flight, of runs that take so long.

    `requests_share` is the share of the requests under load that this one gets.
    """

    name: str
    partitions: int
    takes_s: float
    loads: tuple[int, ...]
    requests_share: float = 1.0


FOUR = Shape("", 4, 0.0, (32, IN_FLIGHT, 256, 1000))
"""The one that all peers run in, though the others only with 32 and 64 in flight."""

SHAPES = (
    FOUR,
    Shape("200_ms", 4, 0.2, (32, IN_FLIGHT, 256), requests_share=0.125),
    Shape("one_partition", 1, 0.0, (32, IN_FLIGHT, 256, 1000)),
)


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of one load in one shape, ours and theirs; rates in requests/s, times in ms."""

    shape: Shape
    in_flight: int
    rates: Sequence[float]
    p50_ms: Sequence[float]
    rate_ratio: float
    cpu_ratio: float


def compared(shape: Shape, ours: Samples, theirs: Samples) -> Iterator[Compared]:
    """Compare two sides in each load of a shape; ratios are medians of the rounds' ratios."""
    for in_flight in shape.loads:
        loads = ours.loads[in_flight], theirs.loads[in_flight]
        rates = [one.rate_per_s for one in loads]
        cpu = [one.cpu_ms_per_request for one in loads]
        p50_ms = [statistics.median(percentile(one, 50) for one in load.took_s) * 1e3
                  for load in loads]  # fmt: skip
        yield Compared(
            shape,
            in_flight,
            rates=[statistics.median(one) for one in rates],
            p50_ms=p50_ms,
            rate_ratio=median_ratio(rates[0], rates[1]),
            # The kernel counts in hundredths of a second: a short run may have used none.
            cpu_ratio=sum(cpu[0]) / sum(cpu[1]) if any(cpu[1]) else math.nan,
        )


def table(rows: Sequence[Compared], ours: str, theirs: str) -> Iterator[str]:
    """Give the table of all shapes, in Markdown; a ratio over 1 is in favour of ours."""
    yield (
        f"| partitions | a run takes (ms) | in flight | {ours} (requests/s) | {theirs} "
        f"| rate, {ours} over {theirs} | p50, {ours} (ms) | {theirs} | CPU, {ours} over {theirs} |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        cells = (
            row.shape.partitions,
            f"{row.shape.takes_s * 1e3:.0f}",
            f"{row.in_flight:,}",
            *(f"{rate:,.0f}" for rate in row.rates),
            f"{row.rate_ratio:.2f}",
            *(f"{p50_ms:,.1f}" for p50_ms in row.p50_ms),
            f"{row.cpu_ratio:.2f}",
        )
        yield f"| {' | '.join(map(str, cells))} |"


def resends_told(name: str, log: Path) -> str:
    """Say how often in all of its run a peer's client sent a batch again that was refused."""
    resent = log.read_text(encoding="utf-8", errors="replace").count(_RESENT)
    return (
        f"{name}: {resent} batches were refused, since their producer's transaction before was not "
        "over yet (NOT_ENOUGH_REPLICAS, KAFKA-15459); aiokafka sent each again 100 ms later "
        "(retry_backoff_ms)"
    )
