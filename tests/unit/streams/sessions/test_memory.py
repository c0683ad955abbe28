from __future__ import annotations

import pytest

from millstream.streams.sessions.memory import MemorySessionStore
from millstream.streams.sessions.paging import SessionLimits
from tests.contracts.session_store_contract import (
    SESSIONS_PER_USER_MAX,
    SessionStoreContract,
    checkpoint,
)
from tests.contracts.session_view_contract import CHECKPOINTS_MAX, SessionViewContract


class TestMemorySessionStore(SessionStoreContract):
    @pytest.fixture
    def store(self) -> MemorySessionStore:
        limits = SessionLimits(sessions_per_user_max=SESSIONS_PER_USER_MAX)
        return MemorySessionStore(lambda: 0, limits)


class TestMemorySessionView(SessionViewContract):
    @pytest.fixture
    def store(self) -> MemorySessionStore:
        limits = SessionLimits(checkpoints_per_session_max=CHECKPOINTS_MAX)
        return MemorySessionStore(lambda: 0, limits)


async def test_a_session_is_forgotten_after_its_time_to_live() -> None:
    now_ms = 0
    store = MemorySessionStore(lambda: now_ms, SessionLimits(ttl_s=10))
    await store.put_checkpoint(checkpoint(), 1)
    now_ms = 9_999
    assert await store.get("default", "ada", "s") is not None
    now_ms = 10_000
    assert await store.get("default", "ada", "s") is None
