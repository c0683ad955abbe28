"""A view counts each record of a partition once, also where its log was made anew."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from millstream.schemas.topics import COSTS
from millstream.streams.consumer.faust_app import App, build_app
from millstream.streams.settings import Settings
from millstream.streams.views.aggregates import Aggregate, spend_of
from millstream.streams.views.table import total_key, user_key
from millstream.streams.views.view import View
from tests import making

COST = making.cost(user_id="ada", request_id="r", session_id="s", cost_micros=5)
USER = user_key(0, COST.tenant, "ada")


@dataclass(frozen=True, slots=True)
class Message:
    """A record as Faust hands it over, for its place."""

    offset: int
    partition: int = 0
    generation_id: int = 1


class CostView:
    """A view of costs, its table as it was restored at offset 90."""

    def __init__(self, app: App) -> None:
        self.app = app
        app.consumer_generation_id = 1
        self.view = View(app, Settings(namespace="t"), COSTS, last_stage="chain", feed=None)
        kept = Aggregate(offset=90, totals={"cost_micros|local": 100}, newest_ms=900)
        self.view._table.data[total_key(0)] = kept.to_bytes()
        self.view._table.data[USER] = kept.to_bytes()

    def read(self, offset: int, at_ms: int, generation: int = 1) -> None:
        """Take a record of 5 millionths."""
        message = Message(offset, generation_id=generation)
        self.view._count(message, at_ms, spend_of(COST), COST)

    @property
    def spent(self) -> tuple[int, int]:
        """Give what was counted in all and of the user, not written to the table yet."""
        fold = self.view._folds[0]
        user = fold.users.get(USER) or Aggregate.from_bytes(self.view._table.data[USER])
        return (_costs(fold.total), _costs(user))


def _costs(aggregate: Aggregate) -> int:
    return sum(n for name, n in aggregate.totals.items() if name.startswith("cost_micros|"))


@pytest.fixture
async def costs() -> CostView:
    app = build_app(Settings(namespace="t"), "views", loop=asyncio.get_running_loop())
    return CostView(app)


def test_record_before_the_position_is_counted_already(costs: CostView) -> None:
    costs.read(90, 1000)
    assert costs.spent == (100, 100)
    costs.read(91, 1000)
    assert costs.spent == (105, 105)


def test_log_that_was_made_anew_while_no_worker_ran_is_counted(costs: CostView) -> None:
    assert costs.view.position(0) == 91
    costs.view.set_back(0, 0)
    costs.read(0, 1000)
    costs.read(1, 1000)
    costs.read(1, 1000)
    assert costs.spent == (110, 110)


def test_records_of_the_old_log_that_are_on_their_way_are_counted_before_the_new_one(
    costs: CostView,
) -> None:
    costs.read(91, 1000)
    costs.view.set_back(0, 0)
    costs.read(92, 1001)  # fetched before
    costs.read(0, 1002)
    costs.read(1, 1003)
    assert costs.spent == (120, 120)


def test_log_that_was_truncated_is_not_counted_twice(costs: CostView) -> None:
    costs.view.set_back(0, 0)
    for offset in range(80):
        costs.read(offset, offset)
    assert costs.spent == (100, 100)
    costs.read(80, 901)
    assert costs.spent == (105, 105)


def test_log_that_was_set_back_in_an_earlier_generation_counts_no_more(costs: CostView) -> None:
    costs.view.set_back(0, 0)
    costs.app.consumer_generation_id = 2
    costs.read(91, 1000, generation=2)
    costs.read(5, 1000, generation=2)
    assert costs.spent == (105, 105)
