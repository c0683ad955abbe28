"""The steps of the demonstration, once Kafka, Redis and a worker run."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from millstream.gateway.client_settings import open_bus
from millstream.gateway.console.rendering import money, reason_text
from millstream.gateway.console.replay.timeline import timeline
from millstream.gateway.console.terminal import print_styled, print_text
from millstream.gateway.demo.clock import StartClock
from millstream.gateway.demo.script import ASKED
from millstream.gateway.demo.stage import Stage
from millstream.gateway.demo.upstream_environment import upstream_environment
from millstream.gateway.installation import HOME, IS_CHECKOUT, command
from millstream.gateway.processes.children import log_tail
from millstream.gateway.processes.platform import Platform
from millstream.schemas.errors import MillstreamError
from millstream.schemas.events import CostRecorded
from millstream.schemas.topics import COSTS, REQUESTS, RESULTS, TOKENS
from millstream.streams.bus.api import Delivery, EventFilter
from millstream.streams.history.replay import HistoryQuery, read_history

__all__ = ["STEPS", "DemoFailed", "heading", "show"]

STEPS = 6

_UPSTREAM = HOME / "docs" / "examples" / "upstream.py"
_UPSTREAM_SHOWN = _UPSTREAM.relative_to(HOME) if IS_CHECKOUT else _UPSTREAM
_UPSTREAM_TIMEOUT_S = 30.0
_ANSWERS_TIMEOUT_S = 240.0
_REPLAY_TIMEOUT_S = 60.0


class DemoFailed(MillstreamError):
    """A step did not end as it should, or in time."""

    code = "demo_failed"


@dataclass(slots=True)
class _Times:
    """Seconds from the command to the first token that was shown."""

    first_token_s: float | None = None


def heading(number: int, text: str) -> None:
    """Print the heading of a step."""
    print_styled(f"\n━━ {number} of {STEPS} ━━ {text}", "bold cyan")


async def show(running: Platform, clock: StartClock) -> None:
    """Tell steps 2 to 6; raises `DemoFailed` if one does not end in its time."""
    times = _Times()
    async with (
        open_bus(running.settings_of("product")) as bus,
        # Before anything is asked, so that no token is missed.
        bus.tail((TOKENS, RESULTS)) as deliveries,
    ):
        async with _limit(running, _UPSTREAM_TIMEOUT_S, "the upstream program has not ended"):
            ids = await _publish(running)
        stage = Stage(
            {one: f"{asked.user_id}: {asked.input}" for one, asked in zip(ids, ASKED, strict=True)},
            print_text,
        )
        async with _limit(running, _ANSWERS_TIMEOUT_S, "some request has no result"):
            await _answers(stage, deliveries, clock, times)
    _rejections(stage, dict(zip(ids, ASKED, strict=True)))
    async with _limit(running, _REPLAY_TIMEOUT_S, "the topics were not read to their end"):
        await _spent(running)
        await _replayed(running, ids[0])
    if times.first_token_s is not None:
        print_styled(f"\nfirst token {times.first_token_s:.1f} s after the start", "bold")


async def _publish(running: Platform) -> tuple[str, ...]:
    """Run the upstream program; gives the ids of the requests, in the order they were asked."""
    settings = running.settings_of("upstream")
    topic = settings.topic(REQUESTS.name)
    heading(2, "An upstream program, which knows only Kafka, publishes requests")
    print_text(f"  python {_UPSTREAM_SHOWN} {settings.kafka} {topic}\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(_UPSTREAM),
        settings.kafka,
        topic,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=upstream_environment(settings),
        start_new_session=True,
    )
    try:
        lines = "".join(f"{asked.record()}\n" for asked in ASKED)
        told, _ = await process.communicate(lines.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    ids = tuple(told.decode().split())
    if process.returncode != 0 or len(ids) != len(ASKED):
        message = f"the upstream program ended with exit code {process.returncode}: see above"
        raise DemoFailed(message)
    for one, asked in zip(ids, ASKED, strict=True):
        print_text(f"  → {one:<26} {asked.record()}\n")
    return ids


async def _answers(
    stage: Stage, deliveries: AsyncIterator[Delivery], clock: StartClock, times: _Times
) -> None:
    heading(3, "A small language model answers on this machine, token by token")
    async for delivery in deliveries:
        stage.take(delivery)
        if times.first_token_s is None and stage.tokens_seen:
            times.first_token_s = clock.seconds()
        if not stage.waiting:
            return


def _rejections(stage: Stage, asked: dict[str, object]) -> None:
    heading(4, "Who may not ask, or asks too often, is turned away with the reason")
    for request_id in asked:
        result = stage.rejected.get(request_id)
        if result is not None:
            told = f"  ✗ {result.user_id} ({request_id}): {reason_text(result.reason)}"
            print_styled(told, "red")
    limited = [
        one
        for one in stage.rejected.values()
        if one.reason and one.reason.retry_after_s is not None
    ]
    if len(limited) > 1:
        print_text(
            "  (the limit counts the last minute, so what an earlier demo asked in it too)\n"
        )
    if not stage.rejected:
        print_text("  nobody was: the policy of this run lets everybody in\n")


async def _spent(running: Platform) -> None:
    heading(5, "What each user spent, from the topic of costs")
    spent: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    async with aclosing(
        read_history(running.settings_of("auditor"), HistoryQuery(topics=(COSTS,)))
    ) as entries:
        async for entry in entries:
            if isinstance(entry, Delivery) and isinstance(entry.event, CostRecorded):
                event = entry.event
                spent[event.user_id] += event.cost_micros
                runs[event.user_id] += event.call == 0
                tokens[event.user_id] += event.usage.input_tokens + event.usage.output_tokens
    for user in dict.fromkeys([*(asked.user_id for asked in ASKED), *sorted(spent)]):
        print_text(
            f"  {user:<10} {money(spent[user])}  {runs[user]:>4} runs {tokens[user]:>7} tokens\n"
        )
    if sum(runs.values()) > len(ASKED):
        print_text("  (with what earlier runs left on the topic)\n")


async def _replayed(running: Platform, request_id: str) -> None:
    heading(6, "The same history, replayed from the topics")
    settings = running.settings_of("auditor")
    print_text(f"  {command()} history --request {request_id}\n\n")
    query = HistoryQuery(wanted=EventFilter(user_id=ASKED[0].user_id, request_id=request_id))
    async with aclosing(read_history(settings, query)) as entries:
        async for line in timeline(entries, settings.namespace):
            print_text(f"  {line}\n")


@asynccontextmanager
async def _limit(running: Platform, timeout_s: float, told: str) -> AsyncGenerator[None]:
    """Bound a step; at its end `DemoFailed` shows what the worker said last."""
    try:
        async with asyncio.timeout(timeout_s) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        log = running.worker.log
        raise DemoFailed(
            f"{told} after {timeout_s:g} s. The end of the worker's log, {log}:\n{log_tail(log)}"
        ) from None
