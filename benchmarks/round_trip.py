"""The round trip of a request: raw aiokafka, and the whole path with a model that does nothing.

Raw is a request topic, an echo in a process of its own, a response topic. The path is a real
`millstream worker --role lanes` with its default settings and the scripted model, which gives the
input back as one token. `priced` is the same under a policy that gives that model a price, so that
each run waits until its reservation is committed. The client is a process of its own, too.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict

from benchmarks.client import Samples, Side, Task
from benchmarks.report import Figure, percentile
from benchmarks.services import PROJECT, running, told_settings, worker
from schemas.events import AgentRequest
from schemas.topics import REQUESTS, RESULTS, TOKENS, TopicSpec
from streams.settings import Settings, child_environment
from streams.topic_admin import ensure_topics

__all__ = ["run"]

ROUNDS = 5
IN_FLIGHT = 64
RAW_LOAD_FACTOR = 8
CLIENT_TIMEOUT_S = 200.0

PRICED_POLICY = """
roles:
  user: {templates: ["*"]}
defaults: {roles: [user]}
prices:
  scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
"""

_RAW = tuple(
    TopicSpec(name, AgentRequest, "user", "Raw aiokafka, to compare with", 3_600_000)
    for name in ("raw-requests", "raw-responses")
)


def run(settings: Settings, *, requests: int) -> Iterator[Figure]:
    """Measure with `requests` under load per round and an eighth of them one by one.

    Raises `RuntimeError` or `subprocess.SubprocessError` if a process fails or is too slow.
    """
    with ExitStack() as stack:
        sides = (
            _raw(settings, stack),
            _path("path", _deployment(settings), stack),
            _path("priced", _priced(settings), stack),
        )
        task = Task(
            kafka=settings.kafka,
            sides=sides,
            rounds=ROUNDS,
            serial=max(20, requests // 8),
            loaded=max(IN_FLIGHT, requests),
            in_flight=IN_FLIGHT,
        )
        samples = _ask_client(task, child_environment(settings))
    yield from _figures(samples)


def _deployment(settings: Settings) -> Settings:
    given = {
        "kafka": settings.kafka,
        "redis_url": settings.redis_url,
        "namespace": f"bench-{secrets.token_hex(4)}",
        "data_dir": settings.data_dir,
        "default_model": "scripted",
    }
    return Settings.model_validate(given)


def _priced(settings: Settings) -> Settings:
    policy = settings.data_dir / "priced.yaml"
    policy.write_text(PRICED_POLICY, encoding="utf-8")
    return Settings.model_validate(
        {**_deployment(settings).model_dump(exclude_unset=True), "policy_file": policy}
    )


def _raw(settings: Settings, stack: ExitStack) -> Side:
    deployment = _deployment(settings)
    asyncio.run(ensure_topics(deployment, _RAW))
    requests, responses = (deployment.topic(spec.name) for spec in _RAW)
    echo = stack.enter_context(
        running(
            ["-m", "benchmarks.echo", settings.kafka, requests, responses],
            child_environment(deployment),
            settings.data_dir / "echo.log",
        )
    )
    return Side("raw", echo.pid, requests, responses, load_factor=RAW_LOAD_FACTOR)


def _path(name: str, deployment: Settings, stack: ExitStack) -> Side:
    print(f"{name} {told_settings(deployment)}", flush=True)
    process = stack.enter_context(worker(deployment, deployment.data_dir / f"{name}.log"))
    return Side(
        name,
        process.pid,
        deployment.topic(REQUESTS.name),
        deployment.topic(RESULTS.name),
        deployment.topic(TOKENS.name),
    )


def _ask_client(task: Task, environment: dict[str, str]) -> dict[str, Samples]:
    client = subprocess.run(
        [sys.executable, "-m", "benchmarks.client"],
        input=json.dumps(asdict(task)).encode(),
        stdout=subprocess.PIPE,
        cwd=PROJECT,
        env=environment,
        check=True,
        timeout=CLIENT_TIMEOUT_S,
    )
    return {name: Samples(**one) for name, one in json.loads(client.stdout).items()}


def _figures(samples: dict[str, Samples]) -> Iterator[Figure]:
    for name, one in samples.items():
        yield from _of_side(name, one)
    for name in ("path", "priced"):
        rate = _median(samples[name].rate_per_s) / _median(samples["raw"].rate_per_s)
        p50 = _p50_ms(samples[name].serial_s) / _p50_ms(samples["raw"].serial_s)
        yield Figure(f"{name}_rate_over_raw", rate, "times")
        yield Figure(f"{name}_serial_p50_over_raw", p50, "times")


def _of_side(name: str, samples: Samples) -> Iterator[Figure]:
    yield Figure(f"{name}_serial_p50", _p50_ms(samples.serial_s), "ms")
    yield Figure(f"{name}_serial_p99", _p99_ms(samples.serial_s), "ms")
    if any(samples.first_token_s):
        yield Figure(f"{name}_first_token_p50", _p50_ms(samples.first_token_s), "ms")
        yield Figure(f"{name}_first_token_p99", _p99_ms(samples.first_token_s), "ms")
    yield Figure(f"{name}_rate_{IN_FLIGHT}_in_flight", _median(samples.rate_per_s), "requests/s")
    yield Figure(f"{name}_loaded_p50", _p50_ms(samples.loaded_s), "ms")
    yield Figure(f"{name}_loaded_p99", _p99_ms(samples.loaded_s), "ms")
    yield Figure(f"{name}_server_cpu", _median(samples.cpu_ms_per_request), "ms/request")


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _p50_ms(rounds: list[list[float]]) -> float:
    """Give the median of the rounds' medians: a round that was disturbed does not count."""
    return _median([percentile(one, 50) for one in rounds]) * 1000


def _p99_ms(rounds: list[list[float]]) -> float:
    """Give the 99th percentile of all rounds together: the tail is what disturbs."""
    return percentile([value for one in rounds for value in one], 99) * 1000
