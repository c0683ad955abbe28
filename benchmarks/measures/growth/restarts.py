"""What a start costs: until the worker is ready and its lanes answer, in CPU and memory."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.measures.growth.asking import Question, asking
from benchmarks.measures.growth.deployed import CAPS, RATES, Deployed, lanes_opened_s
from benchmarks.programs.client import cpu_s
from benchmarks.services import peak_kib
from millstream.streams.wire.partitioning import home_partition

__all__ = ["CHANGES", "SAME", "Restart", "one_user_of_each_lane", "restarts"]

SAME = "same"
CHANGES = (CAPS, RATES)
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Restart:
    """One start, timed from before the process is spawned.

    `lanes_s` are the times that lanes took to open, in the order of partitions; CPU and memory are
    those of the whole process when the last lane had answered.
    """

    ready_s: float
    first_answer_s: float
    answered_s: float
    lanes_s: tuple[float, ...]
    cpu_s: float
    peak_mib: float


async def restarts(deployed: Deployed) -> dict[str, list[Restart]]:
    """Start a worker in turns without and with a change of policy; give the starts by change.

    Each is ended by SIGTERM, so that its lanes have snapshots under the policy that it had.
    """
    taken: dict[str, list[Restart]] = {kind: [] for kind in (SAME, *CHANGES)}
    for _ in range(ROUNDS):
        for change in CHANGES:
            taken[SAME].append(await _restart(deployed))
            deployed.change(change)
            taken[change].append(await _restart(deployed))
    return taken


async def _restart(deployed: Deployed) -> Restart:
    own, run = deployed.settings, secrets.token_hex(4)
    asked = [Question(f"{run}-{user}", user, run) for user in one_user_of_each_lane(own.partitions)]
    async with asking(own) as asker:
        await asker.ask(asked)
        began = time.perf_counter()
        with ExitStack() as stack:
            process, log = await asyncio.to_thread(stack.enter_context, deployed.worker())
            ready_s = time.perf_counter() - began
            await asker.wait()
            opened_s = lanes_opened_s(log.read_text(encoding="utf-8"))
            return Restart(
                ready_s,
                asker.answered_at[0] - began,
                asker.answered_at[-1] - began,
                tuple(opened_s[partition] for partition in sorted(opened_s)),
                cpu_s(process.pid),
                peak_kib(process.pid) / 1024,
            )


def one_user_of_each_lane(partitions: int) -> list[str]:
    """Give users whose requests stand on one partition each, in the order of the partitions."""
    found: dict[int, str] = {}
    for number in itertools.count():
        found.setdefault(home_partition(user := f"restart-{number}", partitions), user)
        if len(found) == partitions:
            return [found[partition] for partition in range(partitions)]
    raise AssertionError
