"""The scenario: blows by turns under a steady load, for as long as it is published."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError
from redis.asyncio import Redis

from millstream.schemas.topics import REQUESTS
from millstream.streams.broker.clients import idempotent_producer
from millstream.streams.settings import Settings
from tests.chaos.load import Progress, request_value
from tests.chaos.outages.watch import CALM, SAMPLES, Phases, judge_ready, read_samples, sample
from tests.harness.audit import Asked
from tests.services.users import acting_as

if TYPE_CHECKING:
    from tests.chaos.scenarios import Drill

__all__ = ["LIMIT_S", "faults", "outages", "publish_steadily", "told"]

LIMIT_S = 1200.0

_REQUESTS_PER_S = 3.0
_OUTAGE_MAX_S = 60.0
_CALM_S = 35.0
_BEGUN = 0.03
_LOG_LINES_MAX = 200
_STOPPED, _FROZEN = "Kafka stopped", "broker frozen"


async def publish_steadily(settings: Settings, load: Sequence[Asked], progress: Progress) -> None:
    """Publish so many requests a second; one that is not taken is sent again under its id."""
    producer = idempotent_producer(acting_as(settings, "upstream"))
    await producer.start()
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        for number, one in enumerate(load):
            await _pause(began_s + number / _REQUESTS_PER_S - loop.time())
            while True:
                try:
                    await producer.send_and_wait(
                        settings.topic(REQUESTS.name), request_value(one), one.user_id.encode()
                    )
                except KafkaError:
                    await _pause(1.0)
                else:
                    break
            progress.sent = number + 1
    finally:
        await producer.stop()


async def outages(drill: Drill) -> None:
    """Kafka stopped, a broker frozen, Redis killed, frozen and emptied, until all is published."""
    # Requests are served, and whoever counts the results has begun.
    await drill.at(_BEGUN)
    phases = Phases()
    to = drill.settings.data_dir / SAMPLES
    sampling = asyncio.create_task(sample(drill.crew.addresses, phases, to))
    for_s = min(_OUTAGE_MAX_S, drill.progress.wanted / _REQUESTS_PER_S / 5)
    try:
        while drill.progress.sent < drill.progress.wanted:
            for blow in (_stop_kafka, _freeze_broker, _kill_redis, _freeze_redis, _flush_redis):
                await blow(drill, phases, for_s)
                phases.begin(CALM)
                await _pause(_CALM_S if blow in {_stop_kafka, _freeze_broker} else for_s / 10)
                if drill.progress.sent >= drill.progress.wanted:
                    break
        await drill.at(1.0)
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
    (drill.settings.data_dir / "log-lines").write_text(str(drill.crew.log_lines), encoding="utf-8")


def told(drill: Drill) -> tuple[str, ...]:
    """Give the figures."""
    samples = read_samples(drill.settings.data_dir / SAMPLES)
    ready = sum(one.status == 200 for one in samples)
    return (
        f"asked {len(samples)} times whether ready, {ready} times told yes",
        f"{_log_lines(drill)} lines in the logs of all workers",
    )


def faults(drill: Drill) -> tuple[str, ...]:
    """Give what was told wrongly, and whether the log was too long."""
    samples = read_samples(drill.settings.data_dir / SAMPLES)
    wrong = judge_ready(samples, away=frozenset({_STOPPED, _FROZEN}))
    lines = _log_lines(drill)
    if lines >= _LOG_LINES_MAX:
        wrong.append(f"{lines} lines in the log, {_LOG_LINES_MAX} or more")
    return tuple(wrong)


def _log_lines(drill: Drill) -> int:
    path = drill.settings.data_dir / "log-lines"
    return int(path.read_text(encoding="utf-8")) if path.exists() else 0


async def _stop_kafka(drill: Drill, phases: Phases, for_s: float) -> None:
    drill.blows.append(f"{_STOPPED} for {for_s:.0f} s")
    phases.begin(_STOPPED)
    try:
        await asyncio.gather(*(node.kill() for node in drill.ground.kafka.nodes))
        await _pause(for_s)
    finally:  # also where the drill is cut short: what was reached is judged
        phases.begin(CALM)
        await drill.ground.kafka.start()


async def _freeze_broker(drill: Drill, phases: Phases, for_s: float) -> None:
    node = drill.rng.choice(drill.ground.kafka.nodes)
    drill.blows.append(f"{node.name} frozen for {for_s:.0f} s")
    phases.begin(_FROZEN)
    node.signal(signal.SIGSTOP)
    try:
        await _pause(for_s)
    finally:
        node.signal(signal.SIGCONT)


async def _kill_redis(drill: Drill, phases: Phases, for_s: float) -> None:
    drill.blows.append(f"Redis killed for {for_s / 2:.0f} s")
    phases.begin("Redis killed")
    await drill.ground.redis.kill()
    await _pause(for_s / 2)
    await drill.ground.redis.start()


async def _freeze_redis(drill: Drill, phases: Phases, for_s: float) -> None:
    drill.blows.append(f"Redis frozen for {for_s / 2:.0f} s")
    phases.begin("Redis frozen")
    drill.ground.redis.signal(signal.SIGSTOP)
    try:
        await _pause(for_s / 2)
    finally:
        drill.ground.redis.signal(signal.SIGCONT)


async def _flush_redis(drill: Drill, phases: Phases, _: float) -> None:
    drill.blows.append("Redis emptied")
    phases.begin("Redis emptied")
    client = Redis.from_url(drill.settings.redis_url)
    try:
        await client.flushall()
    finally:
        await client.aclose()


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)  # noqa: TID251  an outage lasts so long
