"""Attempts are alike on the caller's loop and on one of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.hosting.hosted_run import RunHere
from tests.contracts.run_agent_contract import RunAgentContract
from tests.harness.agent_runs import NOW_MS
from tests.harness.hosting import hosted


class TestDirect(RunAgentContract):
    @pytest.fixture
    def run_agent(self, factory: AgentFactory) -> RunHere:
        return AgentExecutor(factory, clock_ms=lambda: NOW_MS).run


class TestHosted(RunAgentContract):
    @pytest.fixture
    async def run_agent(self, factory: AgentFactory) -> AsyncIterator[RunHere]:
        async with hosted(factory, clock_ms=lambda: NOW_MS) as host:
            yield host.run
