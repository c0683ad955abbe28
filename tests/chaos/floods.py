"""A flood: two users publish as much as they can, others ask one thing after the other."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterable, Sequence

from millstream.schemas.topics import REQUESTS
from millstream.streams.broker.clients import idempotent_producer
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from tests.chaos.load import Progress, request_value
from tests.chaos.model_server import NOTHING, expected_answer
from tests.harness.audit import Asked
from tests.services.users import acting_as

PARTITIONS = 2
_OTHERS = 6
_OTHERS_SHARE = 0.1
_SESSION_REQUESTS = 10
_ASKED_UNTIL = 0.9


def plan_flood(requests: int, rng: random.Random) -> tuple[Asked, ...]:
    """Plan requests of which nine in ten are of one user at each partition, in random turn."""
    of_other = max(1, int(requests * _OTHERS_SHARE) // _OTHERS)
    planned = [_ask(name, "s", of_other) for name in _names("other", _OTHERS)]
    for name in _names("flood", PARTITIONS):
        left = (requests - _OTHERS * of_other) // PARTITIONS
        sessions = [_ask(name, f"s{number}", _SESSION_REQUESTS)
                    for number in range(left // _SESSION_REQUESTS)]  # fmt: skip
        planned.append(list(_shuffled(sessions, rng)))
    return tuple(itertools.chain.from_iterable(planned))


def floods(one: Asked) -> bool:
    """Tell whether a request is part of the flood."""
    return one.user_id.startswith("flood")


async def publish_flood(settings: Settings, load: Sequence[Asked], progress: Progress) -> None:
    """Publish the flood as fast as can be, and meanwhile what the others ask, each in turn."""
    producer = idempotent_producer(acting_as(settings, "upstream"))
    await producer.start()
    topic = settings.topic(REQUESTS.name)

    async def ask_in_turn(asked: Sequence[Asked]) -> None:
        for number, one in enumerate(asked):
            # All along the flood, and not only before it has grown.
            await progress.reached(int(progress.wanted * _ASKED_UNTIL * number / len(asked)))
            began = time.monotonic()
            await producer.send(topic, request_value(one), one.user_id.encode())
            await progress.has(one.request_id)
            progress.waited_s.append(time.monotonic() - began)

    others = [one for one in load if not floods(one)]
    try:
        async with asyncio.TaskGroup() as group:
            for _, asked in itertools.groupby(others, lambda one: one.user_id):
                group.create_task(ask_in_turn(tuple(asked)))
            for one in filter(floods, load):
                await producer.send(topic, request_value(one), one.user_id.encode())
            await producer.flush()
    finally:
        await producer.stop()


def _names(prefix: str, count: int) -> list[str]:
    """Give names of users that are spread evenly over the partitions."""
    numbers = itertools.count()
    return [
        next(
            name
            for number in numbers
            if home_partition(name := f"{prefix}-{number}", PARTITIONS) == place % PARTITIONS
        )
        for place in range(count)
    ]


def _ask(user: str, session: str, requests: int) -> list[Asked]:
    asked = []
    before = NOTHING
    for number in range(requests):
        name = f"{user}-{session}-{number}"
        asked.append(
            Asked(name, user, session, refused=False, answer=expected_answer(name, before))
        )
        before = name
    return asked


def _shuffled(sessions: Sequence[Sequence[Asked]], rng: random.Random) -> Iterable[Asked]:
    """Mix sessions; each keeps its order."""
    turns = [number for number, asked in enumerate(sessions) for _ in asked]
    rng.shuffle(turns)
    left = [iter(asked) for asked in sessions]
    return (next(left[number]) for number in turns)
