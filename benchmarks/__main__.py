"""`python -m benchmarks`: all figures, in one run on one broker; exits 1 if a bar is missed."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from pathlib import Path

from benchmarks.measures import (
    agent,
    backlog,
    bus,
    engine,
    first_token,
    hosting,
    memory,
    recovery,
    round_trip,
    streaming,
    transactions,
    waiting,
)
from benchmarks.measures.agents import executor, prompt_cache
from benchmarks.measures.connections import secure
from benchmarks.measures.growth import measure as growth
from benchmarks.measures.history import reading as history
from benchmarks.measures.journal import beside, cost, resume, size
from benchmarks.measures.sessions import many, operations
from benchmarks.peers import measure as peers
from benchmarks.report import Figure
from benchmarks.services import machine, services
from millstream.streams.settings import Settings

REQUESTS = 1600

Benchmark = Callable[[Settings, int], Iterable[Figure]]

BENCHMARKS: dict[str, Benchmark] = {
    "engine": lambda settings, requests: engine.run(settings, requests=requests),
    "secure": lambda settings, requests: secure.run(settings, requests=requests),
    "round_trip": lambda settings, requests: round_trip.run(settings, requests=requests),
    "peers": lambda settings, requests: peers.run(settings, requests=requests),
    "waiting": lambda settings, _: waiting.run(settings),
    "streaming": lambda settings, _: streaming.run(settings),
    "first_token": lambda settings, _: first_token.run(settings),
    **{one.name: partial(backlog.run, backlog=one) for one in backlog.BACKLOGS},
    "bus": lambda settings, _: bus.run(settings),
    "recovery": recovery.run,
    "growth": lambda settings, requests: growth.run(settings, requests=requests),
    "transactions": lambda settings, _: transactions.run(settings),
    "agent": lambda *_: agent.run(),
    "hosting": lambda *_: hosting.run(),
    "memory": lambda *_: memory.run(),
    "executor": lambda *_: executor.run(),
    "sessions": lambda settings, _: chain(operations.run(settings), many.run(settings)),
    "journal": lambda settings, _: chain(
        cost.run(settings), resume.run(settings), size.run(settings)
    ),
    "journal_peers": lambda settings, _: beside.run(settings),
    "history": lambda settings, _: history.run(settings),
    "prompt_cache": lambda *_: prompt_cache.run(),
}

_DEFAULTS = {
    "growth": growth.REQUESTS_DEFAULT,
    "recovery": recovery.REQUESTS,
    **{one.name: backlog.REQUESTS_DEFAULT for one in backlog.BACKLOGS},
}


def main() -> None:
    """Start services, run the benchmarks asked for, print each figure as it is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="which, comma-separated")
    parser.add_argument(
        "--requests",
        type=int,
        help="requests under load, per round; in a backlog and in growth, all of them",
    )
    given = parser.parse_args()
    wanted = given.only.split(",")
    unknown = sorted(set(wanted) - set(BENCHMARKS))
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    print(machine(), flush=True)
    met = True
    with (
        tempfile.TemporaryDirectory(prefix="millstream-bench-") as data,
        services(Path(data)) as settings,
    ):
        for name in wanted:
            print(f"-- {name}", flush=True)
            for figure in BENCHMARKS[name](
                settings, given.requests or _DEFAULTS.get(name, REQUESTS)
            ):
                met = figure.show() and met
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
