"""Pausing, resuming and cancelling at random, and what must not happen meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from aiokafka import AIOKafkaProducer, TopicPartition

from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import CommandObeyed, HoldPlaced
from millstream.schemas.topics import CONTROL, HOLDS
from millstream.streams.broker.clients import committed_consumer, idempotent_producer
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode
from tests.chaos.calls import Call
from tests.chaos.load import Progress
from tests.chaos.model_server import NOTHING, expected_answer
from tests.harness.audit import Asked
from tests.services.users import acting_as

_ALONE_EVERY = 2
_CANCELLED_EVERY = 3
_SLACK_S = 1.0
_HELD_S = (1.5, 6.0)
_POLL_MS = 100


@dataclass(slots=True)
class Pause:
    """A pause: of a request or of all of a session, and from when to when it must have held.

    `held_ms` is when its hold was read from the log, `lifted_ms` when its end was asked for.
    """

    one: Asked
    alone: bool
    held_ms: float = float("inf")
    lifted_ms: float = float("inf")
    placed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def target(self) -> dict[str, str]:
        """What a command names."""
        if self.alone:
            return {"request_id": self.one.request_id}
        return {"session_id": self.one.session_id}

    def covers(self, one: Asked) -> bool:
        """Tell whether it holds back a request."""
        return (
            one.request_id == self.one.request_id if self.alone else one.session == self.one.session
        )


class Commander:
    """Gives commands. `may_be_cancelled` holds the requests that a cancel was meant for."""

    def __init__(
        self,
        settings: Settings,
        producer: AIOKafkaProducer,
        load: Sequence[Asked],
        progress: Progress,
        rng: random.Random,
    ) -> None:
        self._settings = settings
        self._producer = producer
        self._load = load
        self._progress = progress
        self._rng = rng
        self.pauses: list[Pause] = []
        self.may_be_cancelled: set[str] = set()

    async def trouble(self) -> None:
        """Pause something that is on its way, and after a while let it go on, or end it."""
        one = self._on_its_way()
        if one is None:
            return
        pause = Pause(one, alone=self._rng.randrange(_ALONE_EVERY) == 0)
        self.pauses.append(pause)
        await self._command("pause", one, pause.target)
        ended = asyncio.ensure_future(self._progress.has(one.request_id))
        placed = asyncio.ensure_future(pause.placed.wait())
        # What has ended meanwhile cannot be paused.
        await asyncio.wait({ended, placed}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        placed.cancel()
        await asyncio.gather(ended, placed, return_exceptions=True)
        await asyncio.sleep(self._rng.uniform(*_HELD_S))  # noqa: TID251  so long it is to hold
        if self._rng.randrange(_CANCELLED_EVERY) == 0:
            self.may_be_cancelled |= {each.request_id for each in self._load if pause.covers(each)}
            await self._command("cancel", one, pause.target)
        pause.lifted_ms = time.time_ns() / 1e6
        await self._command("resume", one, pause.target)

    async def watch_holds(self) -> None:
        """Note when holds are on the log, until cancelled."""
        consumer = committed_consumer(self._settings)
        await consumer.start()
        topic = self._settings.topic(HOLDS.name)
        places = range(self._settings.partitions)
        consumer.assign([TopicPartition(topic, number) for number in places])
        try:
            while True:
                for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                    for record in records:
                        if record.value is not None:
                            self._placed(decode(record, HoldPlaced))
        finally:
            await consumer.stop()

    def _placed(self, hold: HoldPlaced) -> None:
        for pause in self.pauses:
            named = hold.request_id or hold.session_id
            if hold.user_id == pause.one.user_id and named in pause.target.values():
                pause.held_ms = min(pause.held_ms, time.time_ns() / 1e6)
                pause.placed.set()

    def _on_its_way(self) -> Asked | None:
        """Choose something that has no result, and is not paused already."""
        busy = {pause.one.session for pause in self.pauses}
        sent = self._load[: self._progress.sent]
        free = [one for one in sent if one.session not in busy and not one.refused
                and one.request_id not in self._progress]  # fmt: skip
        return self._rng.choice(free) if free else None

    async def _command(self, command: str, one: Asked, target: dict[str, str]) -> None:
        value = json.dumps({"user_id": one.user_id, "command": command, **target}).encode()
        topic = self._settings.topic(CONTROL.name)
        await self._producer.send_and_wait(topic, value, one.user_id.encode())


@asynccontextmanager
async def commander(
    settings: Settings, load: Sequence[Asked], progress: Progress, rng: random.Random
) -> AsyncIterator[Commander]:
    """Give one who is connected until the block ends."""
    producer = idempotent_producer(acting_as(settings, "operator"))
    await producer.start()
    try:
        yield Commander(settings, producer, load, progress, rng)
    finally:
        await producer.stop()


def as_it_came(
    load: Sequence[Asked], may_be_cancelled: set[str], results: Iterable[AgentResult]
) -> tuple[Asked, ...]:
    """Give the load with what was cancelled, and with the texts that are right without that."""
    cancelled = {one.request_id for one in results if one.status == "cancelled"} & may_be_cancelled
    newest: dict[str, str] = {}
    found = []
    for one in load:
        if one.request_id in cancelled:
            found.append(replace(one, cancelled=True, answer=None))
        elif one.refused:
            found.append(one)
        else:
            before = newest.get(one.session, NOTHING)
            found.append(replace(one, answer=expected_answer(one.request_id, before)))
            newest[one.session] = one.request_id
    return tuple(found)


def ran_though_cancelled(
    marks: Iterable[CommandObeyed], results: Iterable[AgentResult], calls: Iterable[Call]
) -> tuple[str, ...]:
    """Name calls that began after the cancel of a session that their request came before."""
    cancelled = {(mark.user_id, mark.session_id): mark for mark in marks if mark.until_ms}
    late = {}
    for result in results:
        mark = cancelled.get((result.user_id, result.session_id))
        if mark is not None and mark.until_ms and result.accepted_at_ms <= mark.until_ms:
            late[result.request_id] = mark.at_ms
    return tuple(
        f"{call.request_id} was called {(call.started_ms - at_ms) / 1000:.1f} s after its session "
        "was cancelled"
        for call in calls
        if (at_ms := late.get(call.request_id)) is not None
        and call.started_ms > at_ms + _SLACK_S * 1000
    )


def ran_while_paused(
    pauses: Iterable[Pause], load: Iterable[Asked], calls: Iterable[Call]
) -> tuple[str, ...]:
    """Name calls that began while their request was paused; one under way may come a bit later."""
    started: dict[str, list[float]] = {}
    for call in calls:
        started.setdefault(call.request_id, []).append(call.started_ms)
    load = tuple(load)
    return tuple(
        f"{one.request_id} was called {(at - pause.held_ms) / 1000:.1f} s after it was paused"
        for pause in pauses
        for one in load
        if pause.covers(one)
        for at in started.get(one.request_id, ())
        if pause.held_ms + _SLACK_S * 1000 < at < pause.lifted_ms
    )
