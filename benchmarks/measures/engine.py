"""The engine around the agent, which does nothing here, beside raw aiokafka.

Raw is a request topic, an echo in a process of its own, a response topic. An engine is a worker in
a process of its own (`noop_worker.py`): Faust, all four layers under a policy with a rate limit and
a cap, decision, cost and result in transactions. `engine` runs a model whose price is zero,
`engine_priced` one that costs, so that a run waits until its reservation is committed;
`engine_cut` is the first with the chain cut into two hops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.programs.client import IN_FLIGHT, Samples, Side
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

__all__ = ["ENGINE", "ORIENTATION_IN_FLIGHT", "engine_side", "figures", "run"]

ENGINE = "engine"
PRICED = "engine_priced"
CUT = "engine_cut"

ORIENTATION_IN_FLIGHT = 32

RATE_OVER_RAW_MIN = 0.5
SERIAL_P50_MS_MAX = 5.0

# Generous: every layer has work to do for each request, and refuses none.
POLICY = """
roles:
  user: {{templates: ["*"]}}
defaults:
  roles: [user]
  rate: {{requests: 10000, window_s: 10}}
  spend: {{usd_per_day: 100000}}
prices:
  scripted: {{input_usd_per_mtok: {price}, output_usd_per_mtok: {price}}}
"""


def run(settings: Settings, *, requests: int) -> Iterator[Figure]:
    """Measure with `requests` under load per round and an eighth of them one by one.

    Raises `RuntimeError` or `subprocess.SubprocessError` if a process fails or is too slow.
    """
    with ExitStack() as stack:
        sides = (
            raw_side(settings, stack, in_flight=(ORIENTATION_IN_FLIGHT, IN_FLIGHT)),
            engine_side(ENGINE, settings, stack),
            engine_side(PRICED, settings, stack, price=1),
            engine_side(CUT, settings, stack, chain_cuts=("executor",)),
        )
        samples = ask_client(settings, sides, requests=requests)
    yield from figures(samples)


def engine_side(
    name: str,
    settings: Settings,
    stack: ExitStack,
    *,
    price: float = 0,
    takes_s: float = 0,
    in_flight: tuple[int, ...] = (IN_FLIGHT,),
    **more: object,
) -> Side:
    """Start an engine whose model costs `price` dollars per million tokens, and takes a time."""
    policy = settings.data_dir / f"{name}.yaml"
    policy.write_text(POLICY.format(price=price), encoding="utf-8")
    own = deployment(settings, policy_file=policy, **more)
    return worker_side(
        name,
        own,
        stack,
        program=["-m", "benchmarks.programs.noop_worker", str(takes_s)],
        tokens=False,
        load_factor=2,
        in_flight=in_flight,
    )


def figures(samples: dict[str, Samples]) -> Iterator[Figure]:
    """Give each side's figures, then the ratios and their bars."""
    for name, one in samples.items():
        bar_ms = SERIAL_P50_MS_MAX if name in {ENGINE, PRICED} else None
        yield from side_figures(name, one, serial_p50_ms_max=bar_ms)
    raw = samples[RAW].loads[IN_FLIGHT].rate_per_s
    for name in (ENGINE, PRICED):
        rates = samples[name].loads[IN_FLIGHT].rate_per_s
        yield Figure(f"{name}_rate_over_raw", median_ratio(rates, raw), "times", RATE_OVER_RAW_MIN)
    engine, cut = samples[ENGINE], samples[CUT]
    yield Figure(
        f"{CUT}_rate_over_{ENGINE}",
        median_ratio(cut.loads[IN_FLIGHT].rate_per_s, engine.loads[IN_FLIGHT].rate_per_s),
        "times",
    )
    yield Figure(
        f"{CUT}_serial_p50_over_{ENGINE}", serial_p50_ms(cut) / serial_p50_ms(engine), "times"
    )
