"""What the page of layers shows runs; and what a layer knows is there after a restart.

Others' layers forgot or shared what they counted: each invocation had a copy whose count was 0
(RailtownAI/railtracks#1561), or one was shared by all requests, which overwrote each other's values
(florimondmanca/msgpack-asgi#27). Here each lane makes its own, of what was committed.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from millstream import AgentMiddleware, App
from millstream.middleware.base import MiddlewareContext
from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.base import Event
from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.topics import DECISIONS, RESULTS, SNAPSHOTS
from millstream.streams.apps.loading import load_app
from millstream.streams.apps.name import AppName
from millstream.streams.lane.base.context import stages
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.lane import Lane
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.harness.lane_common import OneLane, always
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    open_keys,
    read_topic,
    read_whole,
    upstream,
)
from tests.making import NOON_MS
from tests.support import eventually

DOCS = Path(__file__).parents[4] / "docs"
PAGE = (DOCS / "how-to" / "layers.md").read_text("utf-8")
SNIPPETS = dict(re.findall(r"<!-- snippet: (\w+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))

FAILED = [making.result(status="failed", at_ms=NOON_MS + n) for n in range(4)]


@pytest.fixture
def shown() -> dict[str, Any]:
    """What the page's snippets define, one after the other."""
    known: dict[str, Any] = {}
    for text in SNIPPETS.values():
        exec(text, known)  # noqa: S102  our page
    return known


@pytest.fixture
def example() -> App:
    """The app of docs/examples."""
    return load_app(AppName.parse(str(DOCS / "examples" / "order_support" / "app.py")))


def context(user: str = "ada") -> MiddlewareContext:
    return making.context(making.resolved(user_id=user, at_ms=NOON_MS + 10))


def refusal(layer: AgentMiddleware, user: str = "ada") -> str | None:
    rejection = layer.admit(context(user)).rejection
    return None if rejection is None else str(rejection)


def folded(layer: AgentMiddleware, events: Sequence[Event]) -> AgentMiddleware:
    for event in events:
        layer.fold(event)
    return layer


def loaded(layer: AgentMiddleware, of: AgentMiddleware) -> AgentMiddleware:
    layer.load(json.loads(json.dumps(of.state())))
    return layer


async def test_the_tests_that_the_page_shows_pass(shown: dict[str, Any]) -> None:
    assert set(SNIPPETS) == {"layer", "test", "state"}
    await shown["test_a_user_rests_after_three_failures"]()
    shown["test_what_it_knows_survives_a_restart"](FAILED)


def test_the_layer_of_the_page_refuses_alike_live_and_restored(shown: dict[str, Any]) -> None:
    make = shown["RestAfterFailures"]
    live = folded(make(), FAILED)
    assert refusal(live) == refusal(loaded(make(), live)) == "too many answers failed"
    assert refusal(live, "bob") is None
    assert refusal(folded(make(), FAILED[:2])) is None


def test_the_examples_layer_knows_what_is_open_in_whatever_order_it_is_folded(example: App) -> None:
    (make,) = tuple(example.layers)
    one, two = (
        making.decision(request_id=name, passed=("auth", "one_at_a_time")) for name in ("r1", "r2")
    )
    ended = making.result(request_id="r1")
    # A restore folds all decisions, and then the results; and a record may come again.
    live = folded(make(), [one, ended, two])
    for other in (folded(make(), [one, two, two, ended, ended]), loaded(make(), live)):
        assert other.canonical() == live.canonical() == {"default/ada": ["r2"]}


def test_another_stages_decision_opens_nothing(example: App) -> None:
    (make,) = tuple(example.layers)
    behind = making.decision(stage="executor", passed=("cost", "rate_limit"))
    assert folded(make(), [behind]).canonical() == {}


async def test_a_worker_goes_on_with_what_the_examples_layer_knew(example: App) -> None:
    """By a snapshot, and without one: by the decisions and results that stand on the topics."""
    for with_snapshot in (True, False):
        await _goes_on(example, with_snapshot=with_snapshot)


async def _goes_on(example: App, *, with_snapshot: bool) -> None:
    world = MemoryLanes()
    async with lane_services(world) as services, upstream(world) as program:

        @asynccontextmanager
        async def owner(*, snapshot: bool) -> AsyncIterator[OneLane]:
            (stage,) = stages((), lambda: (build_pipeline(layers=tuple(example.layers)),))
            where = home_partition("ada", world.settings.partitions)
            lane = Lane(
                world.settings,
                services,
                stage,
                where,
                before_call=always,
                crash_counter=CrashCounter(),
                io=world.io(),
            )
            try:
                await lane.open()
                yield OneLane(lane)
            finally:
                await lane.close(snapshot=snapshot)

        async with owner(snapshot=with_snapshot) as first:
            first.serve(*await ask(program, "hang", request_id="open"))
            await read_topic(world, DECISIONS, Decision, count=1)
            await eventually(lambda: first.lane.waiting == 0)
        assert bool(await open_keys(world, SNAPSHOTS)) == with_snapshot
        async with owner(snapshot=False) as second:
            second.serve(*await ask(program, "say: no", request_id="next"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
        assert (result.request_id, result.status) == ("next", "rejected")
        assert "wait for the answer" in str(result.reason)
        assert len(await read_whole(world, DECISIONS, Decision)) == 2
