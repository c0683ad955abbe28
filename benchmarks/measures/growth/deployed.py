"""A deployment whose worker is started again and again, also under another policy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson

from benchmarks.services import Process, running
from benchmarks.sides import deployment
from millstream.streams.settings import Settings, child_environment

__all__ = ["CAPS", "RATES", "Deployed", "lanes_opened_s"]

STATE_BYTES = 1_000
CAPS, RATES = "caps", "rates"

_READY_TIMEOUT_S = 1800.0

# Generous, as the engine's: every layer has work to do for each request, and refuses none.
_POLICY = """
roles:
  user: {{templates: ["*"]}}
defaults:
  roles: [user]
  rate: {{requests: {rates}, window_s: 10}}
  spend: {{usd_per_day: {caps}}}
prices:
  scripted: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}
"""


class Deployed:
    """Topics, a policy and a worker whose agent leaves each session a state, and nothing else."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.name = name
        self._policy = settings.data_dir / f"{name}.yaml"
        self._limits = {CAPS: 100_000, RATES: 9_000}
        self._starts = itertools.count(1)
        self.settings = deployment(settings, policy_file=self._policy, log_format="json")

    def change(self, limit: str) -> None:
        """Raise a limit by one: to another policy than any before. The next worker reads it."""
        self._limits[limit] += 1

    @contextmanager
    def worker(self) -> Iterator[tuple[Process, Path]]:
        """Run a worker until the block ends, by SIGTERM; give it and its log, in JSON."""
        self._policy.write_text(_POLICY.format_map(self._limits), encoding="utf-8")
        log = self.settings.data_dir / f"{self.name}-{next(self._starts)}.log"
        program = ["-m", "benchmarks.programs.noop_worker", "0", str(STATE_BYTES)]
        environment = child_environment(self.settings)
        with running(program, environment, log, _READY_TIMEOUT_S) as process:
            yield process, log


def lanes_opened_s(log: str) -> Mapping[int, float]:
    """Give by partition how long its newest lane took to open, of a worker's log in JSON."""
    opened: dict[int, float] = {}
    for line in log.splitlines():
        if not line.startswith("{"):
            continue
        told = orjson.loads(line)
        if told.get("event") == "lane open":
            opened[told["partition"]] = told["duration_ms"] / 1000
    return opened
