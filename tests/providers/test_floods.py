"""Names from outside: however many models are asked for, those that there are stay in view."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from millstream.schemas.events import AgentResult, CostRecorded
from millstream.schemas.topics import COSTS, RESULTS
from millstream.streams.views.aggregates import Aggregate, counts_of
from millstream.streams.views.table_metrics import TableMetrics
from tests.harness.lanes import ask
from tests.harness.quick_time import run_quickly
from tests.providers.case import Case, case_of, in_memory

FLOOD = 400
CASE = case_of(
    {
        "name": "a flood of model names hides none that there is",
        "requests": [{"user_id": "ada", "input": "say"}],
        "server": {"say": [{"says": ["All is well"]}]},
        "right": [{}],
    }
)


async def costs_of(case: Case, prefix: str) -> list[CostRecorded]:
    """Ask for a flood of models, then for one that there is; gives what all of them cost."""
    models = [*(f"{prefix}{number}" for number in range(FLOOD)), "openai:fake"]
    async with in_memory(case) as bench:
        for number, model in enumerate(models):
            bench.lane.serve(*await ask(bench.program, "say", request_id=f"r{number}", model=model))
        where, read = bench.where, bench.harness
        await read.read_topic(where, RESULTS, AgentResult, count=len(models), timeout_s=600)
        found: list[CostRecorded] = await read.read_whole(where, COSTS, CostRecorded)
    return found


@pytest.mark.parametrize("prefix", ["nosuch:", "scripted:say: "], ids=["unknown", "unpriced"])
def test_a_model_that_there_is_has_its_metric_after_a_flood_of_names(prefix: str) -> None:
    costs = run_quickly(costs_of(CASE, prefix))
    aggregate = Aggregate()
    for offset, cost in enumerate(costs):
        aggregate.fold(offset, 0, counts_of(cost, at_ms=0, last_stage="chain"))
        if offset == FLOOD // 2:
            aggregate = Aggregate.from_bytes(aggregate.to_bytes())  # as after a restart
    registry = CollectorRegistry()
    registry.register(TableMetrics(lambda: [("costs", 0, aggregate)], dict))
    labels = {"model": "openai:fake", "partition": "0"}
    (cost,) = (one for one in costs if one.model == "openai:fake")
    assert registry.get_sample_value("millstream_cost_micros_total", labels) == cost.cost_micros > 0
    assert len(aggregate.totals) <= 257
