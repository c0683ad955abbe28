"""Pages of a user's sessions on real Kafka and Redis, while everything that can be done is done."""

from __future__ import annotations

import asyncio
import random
from itertools import count

import pytest

from millstream.agents.sessions.manager import SessionOrder
from millstream.schemas.events import AgentRequest
from millstream.schemas.sessions.commands import SessionTtl
from millstream.schemas.sessions.errors import SessionRefused
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.sessions.manager import SessionManager
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.views.service import Views
from tests.harness.lanes import running_lanes
from tests.services.users import acting_as
from tests.support import eventually

pytestmark = pytest.mark.promise("P6")

STAYING = 12
WALKS = 20


class Crowd:
    """What others do with ada's sessions until told to stop; those named `stay-` remain."""

    def __init__(self, bus: KafkaBus, sessions: SessionManager) -> None:
        self._bus = bus
        self._sessions = sessions
        self._numbers = count()
        self._stopping = False
        self.done = 0

    def stop(self) -> None:
        """Have all of them end."""
        self._stopping = True

    async def act(self, seed: int) -> None:
        """Be one of them."""
        chance = random.Random(seed)  # noqa: S311  the same steps for the same seed
        while not self._stopping:
            staying = f"stay-{chance.randrange(STAYING)}"
            passing = f"pass-{next(self._numbers)}"
            try:
                match chance.randrange(6):
                    case 0:
                        await self._sessions.create("ada", passing, ttl=SessionTtl(idle_s=60))
                        await self._sessions.delete("ada", passing)
                    case 1:
                        await self._ask(passing)
                    case 2:
                        await self._ask(staying)
                    case 3:
                        await self._sessions.update("ada", staying, metadata={"at": passing})
                    case 4:
                        await self._sessions.close("ada", staying)
                    case _:
                        await self._sessions.reopen("ada", staying)
            except SessionRefused:
                pass  # it was closed by another one of these
            self.done += 1

    async def _ask(self, session: str) -> None:
        request_id = f"r{next(self._numbers)}"
        await self._bus.publish(
            AgentRequest(user_id="ada", session_id=session, request_id=request_id, input="say: x")
        )


async def test_no_page_skips_or_repeats_a_session_that_is_there_all_the_time(
    deployment: Settings,
) -> None:
    store = RedisSessionStore(deployment)
    views = Views(acting_as(deployment, "worker"), store, MetricsCollector(), marks=store.marks)
    async with (
        running_lanes(deployment),
        KafkaBus(acting_as(deployment, "operator")) as bus,
        SessionManager(bus, store, timeout_s=30) as sessions,
    ):
        await views.start()
        for number in range(STAYING):
            await sessions.create("ada", f"stay-{number}")
        crowd = Crowd(bus, sessions)
        async with asyncio.TaskGroup() as group:
            for seed in range(4):
                group.create_task(crowd.act(seed))
            for walk in range(WALKS):
                order: SessionOrder = "newest" if walk % 2 else "oldest"
                before = crowd.done
                found = await walked(sessions, order)
                assert len(found) == len(set(found))
                stayed = [name for name in found if name.startswith("stay-")]
                numbers = [f"stay-{number}" for number in range(STAYING)]
                assert stayed == (numbers if order == "oldest" else numbers[::-1])
                await eventually(lambda before=before: crowd.done > before)
            crowd.stop()
        await views.stop()
    await store.close()


async def walked(sessions: SessionManager, order: SessionOrder) -> list[str]:
    """Go through all pages of ada's sessions."""
    found: list[str] = []
    after = None
    while True:
        page = await sessions.list("ada", limit=3, after=after, order=order)
        found += [one.session_id for one in page.sessions]
        after = page.after
        if after is None:
            return found
