"""The round trip of a request: raw aiokafka, and the whole path with a model that does nothing.

Raw is a request topic, an echo in a process of its own, a response topic. The path is a real
`millstream worker --role lanes` with its default settings and the scripted model, which gives the
input back as one token. `priced` is the same under a policy that gives that model a price, so that
each run waits until its reservation is committed. The client is a process of its own, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.programs.client import IN_FLIGHT, Samples
from benchmarks.report import Figure
from benchmarks.sides import (
    RAW,
    ask_client,
    deployment,
    median_ratio,
    raw_side,
    serial_p50_ms,
    side_figures,
    worker_side,
)
from millstream.streams.settings import Settings

__all__ = ["run"]


PRICED_POLICY = """
roles:
  user: {templates: ["*"]}
defaults: {roles: [user]}
prices:
  scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
"""


def run(settings: Settings, *, requests: int) -> Iterator[Figure]:
    """Measure with `requests` under load per round and an eighth of them one by one.

    Raises `RuntimeError` or `subprocess.SubprocessError` if a process fails or is too slow.
    """
    with ExitStack() as stack:
        sides = (
            raw_side(settings, stack),
            worker_side("path", deployment(settings), stack),
            worker_side("priced", _priced(settings), stack),
        )
        samples = ask_client(settings, sides, requests=requests)
    yield from _figures(samples)


def _priced(settings: Settings) -> Settings:
    policy = settings.data_dir / "priced.yaml"
    policy.write_text(PRICED_POLICY, encoding="utf-8")
    return deployment(settings, policy_file=policy)


def _figures(samples: dict[str, Samples]) -> Iterator[Figure]:
    for name, one in samples.items():
        yield from side_figures(name, one)
    raw = samples[RAW]
    for name in ("path", "priced"):
        one = samples[name]
        rates = median_ratio(one.loads[IN_FLIGHT].rate_per_s, raw.loads[IN_FLIGHT].rate_per_s)
        yield Figure(f"{name}_rate_over_raw", rates, "times")
        p50 = serial_p50_ms(one) / serial_p50_ms(raw)
        yield Figure(f"{name}_serial_p50_over_raw", p50, "times")
