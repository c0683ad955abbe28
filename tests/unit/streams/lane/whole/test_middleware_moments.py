"""A middleware's clock, ids and random numbers are the same at whoever goes on with its run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.runtime import Runtime
from typing_extensions import override

from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.tools import Caller
from millstream.schemas.errors import ModelFailed
from tests.fakes.odd_models import Chooser, OddModel
from tests.harness.journalled import CLERK, Hold, Outside, clerk, journal_of, run_through
from tests.harness.memory_lanes import MemoryLanes

pytestmark = pytest.mark.promise("P2")

TEXT = 'call: put {"n": 1}; call: look {"n": 2} + pay {"n": 3}; say: done'
HOLDS = [
    *(Hold(at, number) for number in (0, 1) for at in ("asked", "said", "begun", "ended")),
    Hold("asked", 2),
    Hold("said", 2),
]
IDS = [f"{one.at} {one.number}" for one in HOLDS]


class Tells(AgentMiddleware[Any, Any, Any]):
    """Tells the model the time, an id and a number, before and behind each of its answers."""

    message: type[BaseMessage] = SystemMessage

    def __init__(self, told: list[tuple[int, str, int]], number: int = 0) -> None:
        self.told = told
        self.number = number

    def _moment(self, runtime: Runtime[Caller], hook: str) -> str:
        caller = runtime.context
        return f"{caller.now_ms()} {caller.new_id(hook)} {caller.random(hook).random()}"

    @override
    def before_agent(self, state: Any, runtime: Runtime[Caller]) -> dict[str, Any]:
        return {"messages": [self.message(self._moment(runtime, "agent"))]}

    @override
    def before_model(self, state: Any, runtime: Runtime[Caller]) -> dict[str, Any]:
        moment = self._moment(runtime, "before")
        answers = sum(isinstance(one, AIMessage) for one in state["messages"])
        self.told.append((self.number, moment, answers))
        return {"messages": [self.message(moment)]}

    @override
    async def aafter_model(self, state: Any, runtime: Runtime[Caller]) -> None:
        self._moment(runtime, "after")


@pytest.mark.parametrize("hold", HOLDS, ids=IDS)
async def test_a_middleware_that_tells_the_time_is_told_the_same_by_the_next_worker(
    world: MemoryLanes, hold: Hold
) -> None:
    told: list[tuple[int, str, int]] = []
    outside, workers = Outside(), iter(range(10))
    result = await run_through(
        world,
        outside,
        TEXT,
        [hold, None],
        [clerk(middlewares=[{"name": "tells"}])],
        middlewares={"tells": lambda: Tells(told, next(workers))},
    )
    assert (result.status, result.output) == ("completed", "done")
    # What was asked before the worker was lost is asked in the same words.
    by_place: dict[int, set[str]] = {}
    for _, moment, place in told:
        by_place.setdefault(place, set()).add(moment)
    answered = len([one for one in await journal_of(world) if one.kind == "answered"])
    assert answered == 2
    assert set(by_place) == {0, 1, 2}
    lost_before_it_was_written = {0, 1, 2} if hold.at in {"asked", "said"} else set()
    assert all(
        len(moments) == 1 or place in lost_before_it_was_written
        for place, moments in by_place.items()
    )
    assert len(outside.models) <= 3 + (hold.at == "said")


async def test_times_go_to_the_journal_with_the_next_fact_and_only_where_they_were_asked_for(
    world: MemoryLanes,
) -> None:
    told: list[tuple[int, str, int]] = []
    template = clerk(middlewares=[{"name": "tells"}])
    await run_through(
        world, Outside(), TEXT, [None], [template], middlewares={"tells": lambda: Tells(told)}
    )
    moments = [one.moments for one in await journal_of(world)]
    assert [sorted(one) for one in moments if one is not None] == [["0"], ["1"], ["2"]]
    plain = MemoryLanes()
    await run_through(plain, Outside(), TEXT, [None], [CLERK])
    assert {one.moments for one in await journal_of(plain)} == {None}


class TellsAsAPerson(Tells):
    """Tells it in a person's name, which a choice of tools goes by."""

    message = HumanMessage


@pytest.mark.parametrize(
    "hold", [*(Hold("asked", number) for number in (2, 3, 5)), Hold("begun", 1)], ids=str
)
async def test_what_a_middlewares_model_was_asked_with_the_time_is_not_asked_again(
    world: MemoryLanes, hold: Hold
) -> None:
    told: list[tuple[int, str, int]] = []
    call = {"name": "put", "args": {"n": 1}, "id": "c1", "type": "tool_call"}
    again = {**call, "args": {"n": 2}, "id": "c2"}
    says = [AIMessage("", tool_calls=[call]), AIMessage("", tool_calls=[again]), AIMessage("done")]
    main = OddModel(says=says)
    chooser = Chooser(says=[AIMessage('{"tools": ["put"]}') for _ in says])
    models = {"main": main, "chooser": chooser}
    selector = {"name": "tool_selector", "params": {"model": "chooser", "max_tools": 1}}
    template = clerk(models=("main",), middlewares=[{"name": "tells"}, selector])
    outside = Outside()
    result = await run_through(
        world,
        outside,
        "x",
        [hold, None],
        [template],
        middlewares={"tells": lambda: TellsAsAPerson(told)},
        resolve=lambda name, **_: models[name],
    )
    assert (result.status, result.output) == ("completed", "done")
    beside = [one.asked for one in await journal_of(world) if one.kind == "beside"]
    assert len(beside) == len(set(beside)) == 3
    assert (len(chooser.seen), len(main.seen)) == (3, 3)


async def test_a_retry_at_the_same_worker_and_then_at_another_is_told_the_same(
    world: MemoryLanes,
) -> None:
    told: list[tuple[int, str, int]] = []
    call = {"name": "put", "args": {"n": 1}, "id": "c1", "type": "tool_call"}
    says = [AIMessage("", tool_calls=[call]), ModelFailed("overloaded"), AIMessage("done")]
    main = OddModel(says=says)
    retry = RetryPolicy(backoff_first_s=0, jitter=0)
    template = clerk(models=("main",), retry=retry, middlewares=[{"name": "tells"}])
    result = await run_through(
        world,
        Outside(),
        "x",
        [Hold("asked", 2), None],
        [template],
        middlewares={"tells": lambda: Tells(told)},
        resolve=lambda *_, **__: main,
    )
    assert (result.status, result.output) == ("completed", "done")
    assert len({moment for _, moment, place in told if place == 0}) == 1
    assert len([place for _, _, place in told if place == 0]) == 3


async def test_the_middleware_that_the_page_shows_tells_the_time(world: MemoryLanes) -> None:
    page = (Path(__file__).parents[5] / "docs" / "how-to" / "templates.md").read_text("utf-8")
    snippets: list[str] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    known: dict[str, Any] = {}
    exec(next(one for one in snippets if "class TimeOfDay" in one), known)  # noqa: S102  our page
    main = OddModel(says=[AIMessage("done")])
    result = await run_through(
        world,
        Outside(),
        "x",
        [None],
        [clerk(models=("main",), middlewares=[{"name": "time_of_day"}])],
        middlewares={"time_of_day": known["TimeOfDay"]},
        resolve=lambda *_, **__: main,
    )
    assert (result.status, result.output) == ("completed", "done")
    (asked,) = main.seen
    assert re.fullmatch(r"It is \w+day, \d\d:\d\d UTC\.", asked[-1].text)


class Guards(AgentMiddleware[Any, Any, Any]):
    """Has an id for each call of a tool that it lets through."""

    def __init__(self, seen: list[tuple[str, str, int]]) -> None:
        self.seen = seen

    @override
    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        caller: Caller = request.runtime.context
        told = (caller.new_id("guard"), caller.now_ms())
        self.seen.append((request.tool_call["name"], *told))
        return await handler(request)


async def test_a_middleware_around_a_tools_call_has_the_ids_and_the_time_of_that_call(
    world: MemoryLanes,
) -> None:
    seen: list[tuple[str, str, int]] = []
    result = await run_through(
        world,
        Outside(),
        TEXT,
        [Hold("begun", 0), Hold("ended", 2), None],
        [clerk(middlewares=[{"name": "guards"}])],
        middlewares={"guards": lambda: Guards(seen)},
    )
    assert (result.status, result.output) == ("completed", "done")
    puts = [one for one in seen if one[0] == "put"]
    assert (len(puts), len(set(puts))) == (2, 1)
    assert len({one[1] for one in seen}) == 3
