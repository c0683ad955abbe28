"""The load: requests with a known answer each, published as fast as results come, and counted."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence

from aiokafka import TopicPartition

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import REQUESTS, RESULTS
from millstream.streams.broker.clients import committed_consumer, idempotent_producer
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode
from tests.chaos.model_server import NOTHING, expected_answer
from tests.harness.audit import Asked
from tests.services.users import acting_as

MODEL = "openai:counted"
POLICY = """\
roles:
  asker: {templates: %s}
defaults:
  roles: [asker]%s
users:
%s
prices:
  openai:counted: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
"""

_SESSION_REQUESTS = 10
_SESSIONS_PER_USER = 2
_CAPPED_EVERY = 3
_REFUSED_EVERY = 17
_RATE_MIN = 5_000
WAITING_MAX = 200
HOSTILE = "hostile-"
"""How the ids of requests begin that nobody honest asked for: they are counted by themselves."""

_STALL_TIMEOUT_S = 90.0


def request_value(one: Asked) -> bytes:
    """Give the record's value, as an upstream would write it."""
    request = {
        "user_id": one.user_id,
        "session_id": one.session_id,
        "request_id": one.request_id,
        "input": one.request_id,
    }
    # The policy permits chats only.
    return json.dumps({**request, "template": "react_agent"} if one.refused else request).encode()


def plan_load(requests: int, rng: random.Random) -> tuple[Asked, ...]:
    """Plan requests of sessions of about ten each, in random turn; one in 17 is to be refused."""
    sessions = max(8, requests // _SESSION_REQUESTS)
    newest: dict[int, str] = {}
    planned = []
    for number in range(requests):
        session = rng.randrange(sessions)
        user, of_user = divmod(session, _SESSIONS_PER_USER)
        request_id = f"r{number:05}"
        refused = rng.randrange(_REFUSED_EVERY) == 0
        answer = None
        if not refused:
            answer = expected_answer(request_id, newest.get(session, NOTHING))
            newest[session] = request_id
        planned.append(Asked(request_id, f"u{user:04}", f"s{of_user}", refused, answer))
    return tuple(planned)


def policy_for(
    load: Sequence[Asked], templates: Sequence[str] = ("chat_agent",), *, changes: int = 0
) -> str:
    """Give a policy with a cap for a third of the users: their runs wait for a reservation.

    After each of its `changes` it is another one, by the caps and the rates in turns. None refuses
    more than the one before.
    """
    users = sorted({one.user_id for one in load})
    capped = users[::_CAPPED_EVERY]
    usd = 1000 + (changes + 1) // 2
    users_told = "\n".join(f"  {user}: {{spend: {{usd_per_day: {usd}}}}}" for user in capped)
    rates = changes // 2
    rate = f"\n  rate: {{requests: {_RATE_MIN + rates}, window_s: 60}}" if rates else ""
    return POLICY % (json.dumps(list(templates)), rate, users_told)


class Progress:
    """Which requests have a result by now, for whoever waits for one or for so many.

    `sent` is how many of the load are published, `waited_s` what clients waited for answers.
    """

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.sent = 0
        self.waited_s: list[float] = []
        self._done: set[str] = set()
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        """Give the number of requests that have a result."""
        return len(self._done)

    def __contains__(self, request_id: str) -> bool:
        """Tell whether a request has a result."""
        return request_id in self._done

    async def has(self, request_id: str) -> None:
        """Wait for a request's result."""
        async with self._changed:
            await self._changed.wait_for(lambda: request_id in self._done)

    async def add(self, request_ids: set[str]) -> None:
        """Count requests that have a result, but for hostile ones."""
        async with self._changed:
            self._done |= {one for one in request_ids if not one.startswith(HOSTILE)}
            self._changed.notify_all()

    async def reached(self, count: int) -> None:
        """Wait for `count` results. Raises `TimeoutError` if there are no more for 90 s."""
        while (before := len(self._done)) < count:
            async with asyncio.timeout(_STALL_TIMEOUT_S), self._changed:
                while len(self._done) == before:
                    await self._changed.wait()


async def publish(
    settings: Settings,
    load: Sequence[Asked],
    progress: Progress,
    waiting_max: int = WAITING_MAX,
    value: Callable[[Asked], bytes] = request_value,
) -> None:
    """Publish the load, with up to `waiting_max` requests on their way at once.

    `value` gives the record of a request.
    """
    producer = idempotent_producer(acting_as(settings, "upstream"))
    await producer.start()
    try:
        sent = []
        for number, one in enumerate(load):
            await progress.reached(number - waiting_max)
            topic = settings.topic(REQUESTS.name)
            sent.append(await producer.send(topic, value(one), one.user_id.encode()))
            progress.sent = number + 1
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def publish_one(
    settings: Settings, one: Asked, value: Callable[[Asked], bytes] = request_value
) -> None:
    """Publish a request by itself; `value` gives its record."""
    producer = idempotent_producer(acting_as(settings, "upstream"))
    await producer.start()
    try:
        topic = settings.topic(REQUESTS.name)
        await producer.send_and_wait(topic, value(one), one.user_id.encode())
    finally:
        await producer.stop()


async def watch_results(settings: Settings, progress: Progress) -> None:
    """Count committed results until cancelled."""
    consumer = committed_consumer(acting_as(settings, "product"))
    await consumer.start()
    topic = settings.topic(RESULTS.name)
    consumer.assign([TopicPartition(topic, number) for number in range(settings.partitions)])
    try:
        while True:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                await progress.add({decode(one, AgentResult).request_id for one in records})
    finally:
        await consumer.stop()
