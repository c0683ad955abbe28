"""The group is asked to deal anew where that may help, and not again for what it was told."""

from __future__ import annotations

import asyncio
from typing import Any

from millstream.agents.factory import AgentFactory
from millstream.agents.templates.template import AgentTemplate
from millstream.streams.lane.claims import ClaimWatch, capabilities
from millstream.streams.lane.runs.admission import TemplateRef
from tests.unit.streams.consumer.test_capabilities import Apps


class Place:
    """A slot whose lane has requests that lack templates, or that has no lane."""

    def __init__(self, *names: str) -> None:
        self.lacking: dict[TemplateRef, int] | None = {TemplateRef(name): 1 for name in names}


def test_what_a_worker_can_run_is_what_its_factory_has() -> None:
    factory = AgentFactory(templates=(AgentTemplate(name="own", version="1"),))
    factory.register(AgentTemplate(name="own", version="2"))
    factory.register(AgentTemplate(name="gone"))
    factory.retire("gone")
    can = capabilities(factory)
    assert can.names == {"own"}
    assert can.versions == {("own", "1"), ("own", "2"), ("gone", "1")}
    assert can.meet(("gone", "1"))
    assert not can.meet(("gone", None))


async def test_tools_that_a_version_has_no_more_are_asked_of_nobody() -> None:
    group = Apps()
    group.start("a", "old")
    a = group.members["a"]
    has, lacks = TemplateRef("old", "1", ("mail",)), TemplateRef("old", "2", ("mail",))
    place = Place()
    place.lacking = {has: 1, lacks: 1}
    slots: dict[int, Any] = {0: place}

    async def join_anew() -> None:
        """Nobody asks."""

    assert a.meets(("old", "1"))
    ClaimWatch(a, slots, join_anew, chance=lambda: 0.0).look()
    assert a._waits[0] == {("old", "2")}


async def test_the_group_is_asked_once_for_what_waits() -> None:
    group = Apps()
    group.start("a", "old")
    group.start("b", "old")
    group.settle()
    a = group.members["a"]
    number = min(a._has)
    slots: dict[int, Any] = {number: Place("new")}
    asked = asyncio.Event()

    async def join_anew() -> None:
        assert not asked.is_set()
        group.deal()
        asked.set()

    watch = ClaimWatch(a, slots, join_anew, chance=lambda: 0.0)
    running = asyncio.create_task(watch.run())
    try:
        await asyncio.wait_for(asked.wait(), 5)
    finally:
        running.cancel()
    assert a._claimed_waits[number] == {("new", None)}
    assert not a.has_news


def test_of_a_lane_that_has_ended_what_was_heard_last_is_told() -> None:
    group = Apps()
    group.start("a", "old")
    a = group.members["a"]
    place = Place("new")
    slots: dict[int, Any] = {0: place}

    async def join_anew() -> None:
        """Nobody asks."""

    watch = ClaimWatch(a, slots, join_anew, chance=lambda: 0.0)
    watch.look()
    place.lacking = None  # it is being let go
    watch.look()
    assert a._waits[0] == {("new", None)}
    place.lacking = {}
    watch.look()
    assert a._waits[0] == set()
