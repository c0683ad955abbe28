"""Two sides in the shapes of a load, and the table of them."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.peers.shapes import Shape, compared, resends_told, table
from benchmarks.programs.client import Load, Samples

SHAPE = Shape("one", 1, 0.2, (64, 1000))


def samples(rate: float, cpu_ms: float, took_s: float) -> Samples:
    return Samples(
        loads={
            number: Load(
                took_s=[[took_s] * 3] * 2, rate_per_s=[rate, rate], cpu_ms_per_request=[cpu_ms] * 2
            )
            for number in SHAPE.loads
        }
    )


def test_the_table_says_in_which_shape_who_is_faster() -> None:
    rows = list(compared(SHAPE, samples(500, 0.6, 0.1), samples(2000, 0.2, 0.02)))
    head, rule, first, second = table(rows, "engine", "peer")
    assert head.count("|") == rule.count("|") == first.count("|")
    assert first == "| 1 | 200 | 64 | 500 | 2,000 | 0.25 | 100.0 | 20.0 | 3.00 |"
    assert second.startswith("| 1 | 200 | 1,000 | ")


def test_a_side_that_used_no_cpu_that_the_kernel_counted_has_no_ratio() -> None:
    (first, _) = compared(SHAPE, samples(500, 0.6, 0.1), samples(2000, 0.0, 0.02))
    assert math.isnan(first.cpu_ratio)


def test_batches_that_were_sent_again_are_counted_in_the_peers_log(tmp_path: Path) -> None:
    log = tmp_path / "peer.log"
    line = "Got error produce response on topic-partition TopicPartition(topic='t', partition=0)"
    log.write_text(f"{line}, retrying.\nsomething else\n{line}, retrying.\n", encoding="utf-8")
    assert resends_told("peer", log).startswith("peer: 2 batches were refused")
