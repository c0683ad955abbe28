"""What a worker's metrics and its readiness say of agents that block."""

from __future__ import annotations

import asyncio

import pytest

from millstream.agents.models.resolve import resolve_model
from millstream.streams.hosting import agent_host
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from tests.contracts.run_agent_contract import Attempts
from tests.harness.blocking_agents import blocking_factory
from tests.support import eventually

QUICK = Settings(agents_blocked_warn_s=0.1, agents_blocked_max_s=0.3, default_model="scripted")


async def test_code_that_blocks_is_counted_by_template_and_tool_and_so_are_loops() -> None:
    collector = MetricsCollector()
    factory = blocking_factory(attempt_timeout_s=1)
    host = agent_host(QUICK, factory, resolve_model, collector, drain=lambda: None)
    figure = collector.registry.get_sample_value
    try:
        attempts = Attempts(host.run, factory)
        blocking = asyncio.create_task(attempts.make('call: sleep {"seconds": 1.5}; say: no'))
        await eventually(lambda: figure("millstream_agents_loops_given_up") == 1)
        labels = {"template": "blocks", "tool": "sleep"}
        assert figure("millstream_agents_blocked_total", labels) == 1
        assert (await blocking).result.status == "failed"
        await eventually(lambda: figure("millstream_agents_loops_given_up") == 0)
        assert figure("millstream_tool_threads_lost") == 0
        assert host.unready() is None
    finally:
        await host.close()


async def test_templates_that_are_registered_later_are_known_on_every_loop() -> None:
    factory = blocking_factory()
    host = agent_host(QUICK, factory, resolve_model, MetricsCollector(), drain=lambda: None)
    try:
        later = factory.list()[0].model_copy(update={"name": "later"})
        factory.register(later)
        outcome = await Attempts(host.run, factory).make("say: hello", template="later")
        assert outcome.result.template == "later"
    finally:
        await host.close()


def test_the_bounds_that_the_documents_name_are_the_defaults() -> None:
    fields = Settings.model_fields
    assert fields["agents_blocked_warn_s"].default == pytest.approx(1.0)
    assert fields["agents_blocked_max_s"].default == pytest.approx(5.0)
