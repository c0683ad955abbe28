"""Attempts are alike on the caller's loop and on one of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from millstream.agents.executor import AgentExecutor, RunAgent
from millstream.agents.factory import AgentFactory
from tests.contracts.run_agent_contract import RunAgentContract
from tests.harness.agent_runs import NOW_MS
from tests.harness.hosting import hosted


class TestDirect(RunAgentContract):
    @pytest.fixture
    def run_agent(self, factory: AgentFactory) -> RunAgent:
        return AgentExecutor(factory, clock_ms=lambda: NOW_MS).run


class TestHosted(RunAgentContract):
    @pytest.fixture
    async def run_agent(self, factory: AgentFactory) -> AsyncIterator[RunAgent]:
        async with hosted(factory, clock_ms=lambda: NOW_MS) as host:
            yield host.run
