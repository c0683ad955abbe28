"""The sides of a comparison: how each is started, how the client is asked, how its figures read."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from benchmarks.programs.client import IN_FLIGHT, SAMPLES, TASK, Load, Samples, Side, Task
from benchmarks.report import Figure, percentile
from benchmarks.services import PROJECT, running, told_settings
from millstream.schemas.events import AgentRequest
from millstream.schemas.topics import REQUESTS, RESULTS, TOKENS, TopicSpec
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings, child_environment

__all__ = [
    "RAW",
    "WORKER",
    "ask_client",
    "deployment",
    "median_ratio",
    "model_server",
    "raw_side",
    "serial_p50_ms",
    "side_figures",
    "worker_side",
]

RAW = "raw"
RAW_LOAD_FACTOR = 8
CLIENT_TIMEOUT_S = 900.0
ROUNDS = 5

WORKER = ("-m", "millstream.gateway", "worker", "--role", "lanes")
"""The worker as it is deployed."""

_RAW_TOPICS = tuple(
    TopicSpec(name, AgentRequest, "user", "Raw aiokafka, to compare with", 3_600_000)
    for name in ("raw-requests", "raw-responses")
)


def deployment(settings: Settings, **more: object) -> Settings:
    """Give the settings of a deployment of its own on the same services, with `more` of them."""
    given = {
        "kafka": settings.kafka,
        "redis_url": settings.redis_url,
        "namespace": f"bench-{secrets.token_hex(4)}",
        "data_dir": settings.data_dir,
        "default_model": "scripted",
        "scripted_model": True,
    }
    return Settings.model_validate({**given, **more})


def model_server(settings: Settings, stack: ExitStack) -> dict[str, str]:
    """Start the model over HTTP; it ends with `stack`. Gives what tells OpenAI's clients of it."""
    command = ["-m", "benchmarks.programs.model_server"]
    log = settings.data_dir / "model.log"
    model = stack.enter_context(running(command, child_environment(settings), log))
    url = f"http://127.0.0.1:{model.ready['port']}/v1"
    return {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"}


def raw_side(
    settings: Settings, stack: ExitStack, *, in_flight: tuple[int, ...] = (IN_FLIGHT,)
) -> Side:
    """Start the echo on topics of its own; it ends with `stack`."""
    own = deployment(settings)
    asyncio.run(ensure_topics(own, _RAW_TOPICS))
    requests, responses = (own.topic(spec.name) for spec in _RAW_TOPICS)
    echo = stack.enter_context(
        running(
            ["-m", "benchmarks.programs.echo", requests, responses],
            child_environment(own),
            settings.data_dir / "echo.log",
        )
    )
    return Side(
        RAW, echo.pid, requests, responses, load_factor=RAW_LOAD_FACTOR, in_flight=in_flight
    )


def worker_side(
    name: str,
    own: Settings,
    stack: ExitStack,
    *,
    program: Sequence[str] = WORKER,
    tokens: bool = True,
    load_factor: float = 1.0,
    in_flight: tuple[int, ...] = (IN_FLIGHT,),
) -> Side:
    """Start a worker with these settings; it ends with `stack`. `tokens`: whether it writes any."""
    print(f"{name} {told_settings(own)}", flush=True)
    process = stack.enter_context(
        running(program, child_environment(own), own.data_dir / f"{name}.log")
    )
    return Side(
        name,
        process.pid,
        own.topic(REQUESTS.name),
        own.topic(RESULTS.name),
        own.topic(TOKENS.name) if tokens else None,
        load_factor=load_factor,
        in_flight=in_flight,
    )


def ask_client(settings: Settings, sides: tuple[Side, ...], *, requests: int) -> dict[str, Samples]:
    """Measure in a process of its own; give the samples by side.

    In each of `ROUNDS` rounds `requests` are under load, and an eighth of them one by one. Raises
    `subprocess.SubprocessError` if it fails or is too slow.
    """
    task = Task(
        sides=sides,
        rounds=ROUNDS,
        serial=max(20, requests // 8),
        loaded=max(IN_FLIGHT, requests),
    )
    client = subprocess.run(
        [sys.executable, "-m", "benchmarks.programs.client"],
        input=TASK.dump_json(task),
        stdout=subprocess.PIPE,
        cwd=PROJECT,
        env=child_environment(settings),
        check=True,
        timeout=CLIENT_TIMEOUT_S,
    )
    return SAMPLES.validate_json(client.stdout)


def side_figures(
    name: str, samples: Samples, *, serial_p50_ms_max: float | None = None
) -> Iterator[Figure]:
    """Give all figures of a side; those under load are named by what was in flight."""
    serial_ms = serial_p50_ms(samples)
    yield Figure(f"{name}_serial_p50", serial_ms, "ms", serial_p50_ms_max, at_most=True)
    yield Figure(f"{name}_serial_p99", _p99_ms(samples.serial_s), "ms")
    if any(samples.first_token_s):
        yield Figure(f"{name}_first_token_p50", _p50_ms(samples.first_token_s), "ms")
        yield Figure(f"{name}_first_token_p99", _p99_ms(samples.first_token_s), "ms")
    for in_flight, load in samples.loads.items():
        yield from _of_load(f"{name}_{in_flight}_in_flight", load)


def serial_p50_ms(samples: Samples) -> float:
    """Give the time of a request alone, in milliseconds."""
    return _p50_ms(samples.serial_s)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Give the median of the rounds' ratios: what stand side by side was measured side by side."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def _of_load(name: str, load: Load) -> Iterator[Figure]:
    yield Figure(f"{name}_rate", statistics.median(load.rate_per_s), "requests/s")
    yield Figure(f"{name}_p50", _p50_ms(load.took_s), "ms")
    yield Figure(f"{name}_p99", _p99_ms(load.took_s), "ms")
    yield Figure(f"{name}_server_cpu", statistics.median(load.cpu_ms_per_request), "ms/request")


def _p50_ms(rounds: list[list[float]]) -> float:
    """Give the median of the rounds' medians: a round that was disturbed does not count."""
    return statistics.median(percentile(one, 50) for one in rounds) * 1000


def _p99_ms(rounds: list[list[float]]) -> float:
    """Give the 99th percentile of all rounds together: the tail is what disturbs."""
    return percentile([value for one in rounds for value in one], 99) * 1000
