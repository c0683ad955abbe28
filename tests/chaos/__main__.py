"""`python -m tests.chaos`: real workers under load, ended and cut off in every way; one table.

Exits 1 if a request was lost or answered twice, a session's runs were out of order, a call was made
again whose answer was on the log, a text was not what was streamed, or a scenario did not come to
its end.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from millstream.schemas.lane_events import CommandObeyed, LaneOpened
from millstream.schemas.topics import LANES, OBEYED, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from tests.chaos.calls import out_of_order, read_calls, repeated, resumed_after_s
from tests.chaos.clients import Clients
from tests.chaos.crew import Crew
from tests.chaos.ground import Ground, ground
from tests.chaos.hostile.drill import SIZES, Sizes
from tests.chaos.load import Progress, policy_for, watch_results
from tests.chaos.pauses import as_it_came, commander, ran_though_cancelled, ran_while_paused
from tests.chaos.rotations import rotate_at
from tests.chaos.scenarios import SCENARIOS, Drill, Scenario
from tests.chaos.table import Row, as_table, told_faults, told_waits
from tests.chaos.waits import longest_waits
from tests.harness.audit import Asked, audit, left_behind, read_records
from tests.harness.handovers import handovers
from tests.harness.lanes import read_whole
from tests.services.users import secured

REQUESTS = 2000
_LIMIT_S = 180.0
_LIMIT_PER_REQUEST_S = 0.1
_WAITS_TOLD = 3


@dataclass(frozen=True, slots=True)
class Given:
    """What was asked for on the command line."""

    scenarios: tuple[str, ...]
    requests: int
    seed: int
    data: Path
    limit_s: float
    session_timeout_s: float
    waits: int
    sizes: tuple[str, ...]
    keep: bool
    secure: bool


def main() -> None:
    """Run the scenarios asked for, one after the other."""
    given = _given()
    # Brokers are killed on purpose, and aiokafka tells of each try to reach them.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    console = Console(width=max(Console().width, 180))
    console.print(f"seed {given.seed}, data in {given.data}")
    rows = []
    for name in given.scenarios:
        row = asyncio.run(run_scenario(name, given))
        rows.append(row)
        console.print(f"{name}: {', '.join(row.blows) or 'nothing done'} in {row.duration_s:.0f} s")
        console.print(f"  load average at the end {row.machine_load:.1f}, {os.cpu_count()} CPUs")
        if row.handed_over_s:
            gaps = " ".join(f"{seconds:.1f}" for seconds in row.handed_over_s)
            console.print(f"  last result of an owner to its successor's lane, s: {gaps}")
        for line in (*map(str, row.longest_waits), *row.told, *told_waits(row), *told_faults(row)):
            console.print(f"  {line}", markup=False, highlight=False)
    console.print(as_table(rows, given.session_timeout_s))
    held = all(row.ok for row in rows)
    if held and not given.keep:
        shutil.rmtree(given.data)
    sys.exit(0 if held else 1)


async def run_scenario(name: str, given: Given) -> Row:
    """Run one scenario on ground of its own, and audit what it left."""
    scenario = SCENARIOS[name]
    rng = random.Random(given.seed ^ zlib.crc32(name.encode()))  # noqa: S311  only to be repeatable
    load = scenario.plan(given.requests, rng)
    data = given.data / name
    data.mkdir(parents=True)
    (data / "policy.yaml").write_text(policy_for(load, scenario.templates), encoding="utf-8")
    began = time.monotonic()
    async with ground(
        data,
        scenario.brokers,
        model_pace_s=scenario.model_pace_s,
        model=scenario.model,
        secure=given.secure,
    ) as on:
        settings = Settings(
            kafka=on.kafka.bootstrap,
            redis_url=on.redis.url,
            namespace="chaos",
            data_dir=data,
            policy_file=data / "policy.yaml",
            session_timeout_s=given.session_timeout_s,
            **scenario.settings,
        )
        if on.credentials is not None:
            settings = secured(settings, on.credentials)
        await ensure_topics(settings, catalogue())
        async with Crew(settings, on.model_url, scenario.roles, program=scenario.program) as crew:
            blows: list[str] = []
            progress = Progress(len(load))
            clients = Clients(settings)
            async with commander(settings, load, progress, rng) as commands:
                drill = Drill(
                    settings, on, crew, progress, rng, blows, clients, load, commands,
                    Sizes(given.sizes),
                )  # fmt: skip
                limit_s = max(given.limit_s, scenario.limit_s)
                ending = await _play(scenario, drill, load, limit_s)
        return await _judge(name, load, drill, ending, time.monotonic() - began, waits=given.waits)


async def _play(
    scenario: Scenario, drill: Drill, load: tuple[Asked, ...], limit_s: float
) -> str | None:
    """Let the load come in and the scenario happen; gives why it did not come to its end."""
    try:
        async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
            await drill.crew.start(*scenario.workers)
            watcher = group.create_task(watch_results(drill.settings, drill.progress))
            publisher = group.create_task(scenario.publish(drill.settings, load, drill.progress))
            rotating = group.create_task(_rotate(drill))
            await scenario.run(drill)
            await publisher
            await drill.progress.reached(len(load) + len(drill.clients.asked))
            await rotating
            await drill.crew.retire_all()
            watcher.cancel()
    except (TimeoutError, ExceptionGroup, AssertionError) as error:
        # What was reached by now is judged all the same: it tells more than the error.
        return f"stopped at {len(drill.progress)} of {len(load)} results: {_told(error)}"
    return None


async def _rotate(drill: Drill) -> None:
    if drill.ground.rotation is not None:
        half = drill.progress.reached(drill.progress.wanted // 2)
        await rotate_at(half, drill.ground.rotation, drill.blows.append)


def _told(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_told(one) for one in error.exceptions)
    return repr(error)


async def _judge(
    name: str,
    load: tuple[Asked, ...],
    drill: Drill,
    ending: str | None,
    duration_s: float,
    *,
    waits: int,
) -> Row:
    on: Ground = drill.ground
    scenario = SCENARIOS[name]
    records = await read_records(drill.settings, scenario.read)
    opened = await read_whole(drill.settings, LANES, LaneOpened)
    obeyed = await read_whole(drill.settings, OBEYED, CommandObeyed)
    if scenario.judge is None:
        load = as_it_came(load, drill.commander.may_be_cancelled, records.results)
    verdict = audit((*load, *drill.clients.asked), records)
    changed = handovers(records.results, opened, drill.settings.partitions)
    calls = read_calls(on.model_log)
    faults = [
        *drill.crew.faults,
        *drill.clients.faults,
        *await left_behind(drill.settings),
        *ran_while_paused(drill.commander.pauses, load, calls),
        *ran_though_cancelled(obeyed, records.results, calls),
        *([ending] if ending else []),
    ]
    told: tuple[str, ...] = ()
    counted: Mapping[str, int] = {}
    again = repeated(calls, records.results, drill.crew.wakes)
    if scenario.judge is not None:
        found = await scenario.judge(drill, records)
        told, counted = found.told, found.counted
        again += found.repeated
        faults += found.faults
        faults += [f"{drill.crew.crashes} workers ended by themselves"] * bool(drill.crew.crashes)
    if verdict.superseded and not scenario.supersedes:
        faults.append(f"{verdict.superseded} runs that could have ended were begun anew")
    return Row(
        name=name,
        verdict=verdict,
        calls_out_of_order=out_of_order(calls, load),
        calls_finished=sum(call.finished for call in calls),
        calls_repeated=again,
        resumed_after_s=resumed_after_s(calls, drill.crew.kills),
        handed_over_s=tuple(one.opened_s for one in changed),
        crashes=drill.crew.crashes,
        faults=tuple(faults),
        blows=tuple(drill.blows),
        told=told,
        counted=counted,
        longest_waits=longest_waits(
            records.results, opened, calls, drill.settings.partitions, count=waits
        ),
        machine_load=os.getloadavg()[0],
        waited_s=tuple(sorted(drill.progress.waited_s)),
        duration_s=duration_s,
    )


def _given() -> Given:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    names = ",".join(SCENARIOS)
    parser.add_argument("--only", default=names, help=f"which, comma-separated, of {names}")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="requests per scenario")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--data", type=Path, help="an empty folder to leave logs and data in")
    parser.add_argument("--limit-s", type=float, help="seconds that a scenario may take")
    parser.add_argument("--session-timeout-s", type=float, default=6.0, help="of the workers")
    parser.add_argument("--waits", type=int, default=_WAITS_TOLD, help="longest waits to explain")
    kinds = ",".join(SIZES)
    parser.add_argument("--sizes", default=kinds, help=f"hostile ones in `sizes`, of {kinds}")
    parser.add_argument(
        "--secure",
        action="store_true",
        help="TLS, users and an authoriser; each role has its own rights alone, and brokers change "
        "their certificates in the middle",
    )
    given = parser.parse_args()
    scenarios = tuple(given.only.split(","))
    unknown = sorted(set(scenarios) - set(SCENARIOS))
    if unknown:
        parser.error(f"there is no scenario {unknown[0]!r}; there are {names}")
    sizes = tuple(given.sizes.split(","))
    if unknown := sorted(set(sizes) - set(SIZES)):
        parser.error(f"there is no hostile size {unknown[0]!r}; there are {kinds}")
    data = given.data or Path(tempfile.mkdtemp(prefix="millstream-chaos-"))
    limit_s = given.limit_s or _LIMIT_S + _LIMIT_PER_REQUEST_S * given.requests
    return Given(
        scenarios,
        given.requests,
        given.seed,
        data,
        limit_s,
        given.session_timeout_s,
        given.waits,
        sizes,
        keep=bool(given.data),
        secure=given.secure,
    )


if __name__ == "__main__":
    main()
