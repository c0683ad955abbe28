"""Redis behind a sentinel changes its master while commands on sessions go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import SESSION_STATES
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.sessions.manager import SessionManager
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.views.service import Views
from tests.harness.lanes import read_whole, running_lanes
from tests.harness.redis_servers import RedisWatch, redis_watch
from tests.services.users import acting_as
from tests.support import eventually

pytestmark = [pytest.mark.promise("P6"), pytest.mark.slow]

USERS = 8


class Load:
    """Users who create sessions, change them, and delete every second one, until told to stop."""

    def __init__(self, sessions: SessionManager) -> None:
        self._sessions = sessions
        self._stopping = False
        self.answered = 0

    async def of(self, user: str) -> None:
        """Be one of them: what an answer says is as it was asked for."""
        number = 0
        while not self._stopping:
            number += 1
            name = f"s{number}"
            await self._sessions.create(user, name, metadata={"at": "first"})
            changed = await self._sessions.update(user, name, metadata={"at": "last"})
            assert (changed.revision, changed.metadata) == (2, {"at": "last"})
            if number % 2:
                await self._sessions.delete(user, name)
            self.answered += 1

    async def more(self, count: int) -> None:
        """Wait until so many more are through."""
        wanted = self.answered + count
        await eventually(lambda: self.answered >= wanted, timeout_s=60)

    def stop(self) -> None:
        """Have all of them end."""
        self._stopping = True


@pytest.mark.timeout(120)
@pytest.mark.parametrize("change", [RedisWatch.kill_master, RedisWatch.swap])
async def test_what_the_next_master_lacks_is_made_up_for_while_commands_go_on(
    deployment: Settings, tmp_path: Path, change: Callable[[RedisWatch], Awaitable[None]]
) -> None:
    # redis/redis#6062: until it is told, the old master takes writes that nobody has afterwards.
    async with redis_watch(tmp_path) as watch:
        settings = deployment.model_copy(update={"redis_url": watch.url})
        store = RedisSessionStore(settings)
        views = Views(settings, store, MetricsCollector(), marks=store.marks)
        async with (
            running_lanes(settings),
            KafkaBus(acting_as(settings, "operator")) as bus,
            SessionManager(bus, store, timeout_s=60) as sessions,
        ):
            await views.start()
            load = Load(sessions)
            async with asyncio.TaskGroup() as group:
                for number in range(USERS):
                    group.create_task(load.of(f"u{number}"))
                await load.more(150)
                await change(watch)
                await load.more(100)
                load.stop()
            states = await read_whole(settings, SESSION_STATES, SessionState)

            async def is_right() -> bool:
                try:
                    return await wrongly_shown(store, states) == []
                except ServiceUnavailable:
                    return False

            await eventually(is_right, timeout_s=30)
            await views.stop()
        await store.close()


async def wrongly_shown(store: RedisSessionStore, states: list[SessionState]) -> list[str]:
    """Give the sessions that are shown otherwise than they are."""
    newest = {(one.user_id, one.session_id): one for one in states}
    wrong = []
    for (user, name), state in newest.items():
        info = await store.get("default", user, name)
        shown = None if info is None else (info.state, info.revision, info.metadata)
        deleted = state.state == "deleted"
        if shown != (None if deleted else (state.state, state.revision, state.metadata)):
            wrong.append(f"{user} {name}")
    return wrong
