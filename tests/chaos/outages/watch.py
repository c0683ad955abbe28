"""What workers say of themselves, asked from outside once a second, and whether it was right."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

__all__ = ["CALM", "SAMPLES", "Phases", "Sample", "judge_ready", "read_samples", "sample"]

SAMPLES = "ready.jsonl"
CALM = "calm"

_ASK_TIMEOUT_S = 1.5
_NOTICED_AFTER_S = 8.0
"""A silent broker may still answer: after so long, a worker must say that it is not ready."""
_SERVES_AFTER_S = 30.0
"""So long after all is back, a worker must be ready; a frozen broker's session is over by then."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer: `status` is 0 where none came. `since_s` is the age of the phase it fell in."""

    phase: str
    since_s: float
    worker: str
    status: int
    said: str


class Phases:
    """Which phase it is now."""

    def __init__(self) -> None:
        self.begin(CALM)

    def begin(self, name: str) -> None:
        """Begin a phase."""
        self.name, self._began_s = name, time.monotonic()

    @property
    def since_s(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self._began_s


async def sample(workers: Callable[[], Mapping[str, str]], phases: Phases, to: Path) -> None:
    """Ask each worker once a second until cancelled; `workers` gives their addresses."""
    timeout = aiohttp.ClientTimeout(total=_ASK_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            asked = [_ask(session, phases, *one) for one in workers().items()]
            told = await asyncio.gather(*asked)
            with to.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(one)) + "\n" for one in told)
            await asyncio.sleep(1)  # noqa: TID251  once a second is what is promised


async def _ask(session: aiohttp.ClientSession, phases: Phases, worker: str, url: str) -> Sample:
    phase, since_s = phases.name, phases.since_s
    try:
        async with session.get(f"{url}/health/ready") as answer:
            return Sample(phase, since_s, worker, answer.status, await answer.text())
    except (aiohttp.ClientError, TimeoutError) as error:
        return Sample(phase, since_s, worker, 0, repr(error))


def read_samples(path: Path) -> list[Sample]:
    """Give what was written."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Sample(**json.loads(line)) for line in lines]


def judge_ready(samples: Iterable[Sample], *, away: frozenset[str]) -> list[str]:
    """Give each sample that was wrong: ready in a phase of `away`, not ready in another one."""
    wrong = []
    for one in samples:
        should = 503 if one.phase in away else 200
        settled_s = _NOTICED_AFTER_S if one.phase in away else 0.0
        if one.phase == CALM:  # it follows on an outage
            settled_s = _SERVES_AFTER_S
        is_silent = one.status not in {200, 503}
        if is_silent or (one.since_s >= settled_s and one.status != should):
            at = f"{one.phase} +{one.since_s:.0f} s"
            wrong.append(f"{one.worker} said {one.status} at {at}: {one.said[:300]}")
    return wrong
