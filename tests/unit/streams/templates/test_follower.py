"""Every worker has what was applied, without a restart; what it cannot run, it says and leaves.

What others lost: a prompt that was changed on one instance and not on the next (BerriAI/litellm
#38411), two versions of one number by two who write at once (DMPRoadmap/roadmap#1128), and what a
topic held that was not compacted (apache/kafka#8828).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from millstream.agents.factory import AgentFactory
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.control.templates import TemplateApplied
from millstream.schemas.errors import Misconfigured, UnknownTemplate
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS, TEMPLATES
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.lane.queue.waits import TemplateWaits
from millstream.streams.lane.runs.admission import TemplateRef
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.template_files import load_template
from millstream.streams.templates.follower import TemplateFollower
from millstream.streams.templates.records import applied_event, template_of
from millstream.streams.templates.registry import TemplateRegistry
from millstream.streams.wire.codec import encode
from tests import making
from tests.contracts.log_world import started
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    upstream,
)
from tests.support import eventually

ONE, TWO = (
    AgentTemplate(name="own", version=version, system_prompt=f"You are {version}.")
    for version in ("1", "2")
)
NEEDS_TOOL = AgentTemplate(name="clerk", kind="react", tools=("mail",))


@pytest.fixture
def world() -> MemoryLanes:
    world = MemoryLanes()
    world.create_topics()
    return world


def registry(world: MemoryLanes) -> TemplateRegistry:
    return TemplateRegistry(world.settings, io=world.io())


@asynccontextmanager
async def worker(
    world: MemoryLanes, factory: AgentFactory | None = None
) -> AsyncIterator[tuple[AgentFactory, TemplateFollower]]:
    """Start what a worker has of it."""
    factory = factory or AgentFactory(default_model="scripted")
    follower = TemplateFollower(world.settings, factory, MetricsCollector(), io=world.io())
    await follower.start()
    try:
        yield factory, follower
        assert follower.failure is None
    finally:
        await follower.stop()


async def write(world: MemoryLanes, key: bytes, value: bytes | None) -> None:
    async with started(MemoryClients(world.broker).plain_producer()) as producer:
        await producer.send_and_wait(world.topic(TEMPLATES), value, key, 0)


async def test_what_is_applied_is_there_in_every_worker_without_a_restart(
    world: MemoryLanes,
) -> None:
    async with worker(world) as (one, _), worker(world) as (other, _):
        (outcome,) = await registry(world).apply((ONE,), by="ada")
        await eventually(lambda: one.has("own") and other.has("own"))
        assert (outcome.done, outcome.event.by, one.template("own")) == ("applied", "ada", ONE)
        await registry(world).apply((TWO,), by="ada")
        await eventually(lambda: other.template("own") == TWO)
        assert other.template("own", "1") == ONE


async def test_a_worker_that_starts_has_it_before_it_serves(world: MemoryLanes) -> None:
    await registry(world).apply((ONE, TWO), by="ada")
    await registry(world).apply((ONE,), by="ada")  # back to the first
    async with worker(world) as (factory, _):  # nothing is kept beside the log
        assert factory.template("own") == ONE
        assert factory.template("own", "2") == TWO


async def test_applying_what_stands_writes_nothing(world: MemoryLanes) -> None:
    await registry(world).apply((ONE,), by="ada")
    (again,) = await registry(world).apply((ONE,), by="bob")
    (found,) = await registry(world).all()
    assert (again.done, found.event.by) == ("unchanged", "ada")
    assert len(await read_topic(world, TEMPLATES, TemplateApplied, count=1)) == 1


async def test_a_version_names_one_content_for_ever(world: MemoryLanes) -> None:
    await registry(world).apply((ONE,), by="ada")
    await registry(world).retire("own", None, by="ada")
    changed = ONE.model_copy(update={"system_prompt": "You are another."})
    with pytest.raises(
        Misconfigured, match="one content for ever: give this one another `version`"
    ):
        await registry(world).apply((TWO, changed), by="bob")
    assert [one.key for one in await registry(world).all()] == [("own", "1")]  # all or none


# As the version before wrote it, which knew no sizes that follow the model.
BEFORE = ONE.model_copy(
    update={"output_tokens_max": 256, "memory": ONE.memory.model_copy(update={"tokens_max": 1024})}
)


async def test_what_an_earlier_version_applied_stands_where_its_file_names_no_sizes(
    world: MemoryLanes,
) -> None:
    assert "output_tokens_max" not in applied_event(ONE, at_ms=1, by=None).content
    await registry(world).apply((BEFORE,), by="ada")
    factory = AgentFactory(default_model="scripted", templates=(*BUILT_IN_TEMPLATES, ONE))
    async with worker(world, factory) as (_, follower):
        assert follower.lacking == set()
        assert factory.template("own") == ONE  # an app's own goes on as its code has it
    (again,) = await registry(world).apply((ONE,), by="bob")
    assert again.done == "unchanged"
    await registry(world).retire("own", None, by="bob")
    (again,) = await registry(world).apply((ONE,), by="bob")
    assert again.done == "applied_again"
    assert template_of(again.event) == BEFORE
    async with worker(world) as (later, _):
        assert later.template("own") == BEFORE


async def test_a_number_is_other_content_than_a_size_that_follows_the_model(
    world: MemoryLanes,
) -> None:
    await registry(world).apply((ONE,), by="ada")
    with pytest.raises(Misconfigured, match="one content for ever"):
        await registry(world).apply((BEFORE,), by="bob")
    (found,) = await registry(world).all()
    assert AgentTemplate.model_validate(found.event.content) == ONE


async def test_of_two_operators_at_once_one_is_told_what_the_other_did(world: MemoryLanes) -> None:
    changed = ONE.model_copy(update={"system_prompt": "You are another."})
    outcomes = await asyncio.gather(
        registry(world).apply((ONE,), by="ada"),
        registry(world).apply((changed,), by="bob"),
        return_exceptions=True,
    )
    refused = [one for one in outcomes if isinstance(one, Misconfigured)]
    assert len(refused) == 1, outcomes
    (found,) = await registry(world).all()
    assert found.event.by == ("bob" if outcomes[1] not in refused else "ada")


async def test_what_is_retired_is_given_to_no_new_run_and_stays_for_those_that_have_it(
    world: MemoryLanes,
) -> None:
    async with worker(world) as (factory, _):
        await registry(world).apply((ONE, TWO), by="ada")
        await registry(world).retire("own", "2", by="ada")
        await eventually(lambda: factory.has("own") and factory.template("own") == ONE)
        await registry(world).retire("own", None, by="ada")
        await eventually(lambda: not factory.has("own"))
        (again,) = await registry(world).retire("own", "1", by="ada")
    assert again.done == "unchanged"
    async with worker(world) as (later, _):
        assert not later.has("own")
        assert later.template("own", "2") == TWO  # as for a run that was parked with it
        await registry(world).apply((TWO,), by="ada")
        await eventually(lambda: later.has("own"))


async def test_what_was_never_applied_cannot_be_retired(world: MemoryLanes) -> None:
    with pytest.raises(UnknownTemplate, match="an app's own is retired by taking it out"):
        await registry(world).retire("chat_agent", None, by="ada")


async def test_a_template_whose_tools_a_worker_lacks_is_left_to_others(world: MemoryLanes) -> None:
    async with worker(world) as (factory, follower):
        await registry(world).apply((NEEDS_TOOL, ONE), by="ada")
        await eventually(lambda: factory.has("own"))
        assert follower.lacking == {("clerk", "1")}
        assert ("clerk", "1") not in factory.offers


async def test_what_cannot_be_read_is_passed_over_and_the_next_one_taken(
    world: MemoryLanes,
) -> None:
    newer = making.template_applied(content={"name": "own", "field_of_tomorrow": 1})
    whole = making.template_applied(name="large", content={"name": "large"}).model_dump(mode="json")
    large = json.dumps({**whole, "pad": "x" * 1_040_000}).encode()
    misnamed = applied_event(TWO, at_ms=1, by=None).model_copy(update={"name": "other"})
    async with worker(world) as (factory, follower):
        for key, value in (
            (b"x", b"\xff no json"),
            (b"y", None),
            (b"z", b'{"user_id": "ada"}'),
            (b"large", large),
            (b"own", encode(newer, source="/t").value),
            (b"other", encode(misnamed, source="/t").value),
        ):
            await write(world, key, value)
        await registry(world).apply((TWO,), by="ada")
        await eventually(lambda: factory.has("own"))
    assert follower.lacking == {("own", "1"), ("other", "2")}
    async with worker(world) as (later, _):
        assert later.template("own") == TWO


async def test_an_apps_own_version_stands_against_another_content_of_it(
    world: MemoryLanes,
) -> None:
    mine = AgentTemplate(name="own", version="1", system_prompt="You are mine.")
    await registry(world).apply((ONE, TWO), by="ada")
    factory = AgentFactory(default_model="scripted", templates=(*BUILT_IN_TEMPLATES, mine))
    async with worker(world, factory) as (_, follower):
        assert factory.template("own", "1") == mine
        assert factory.template("own") == TWO  # what is applied goes before the app's own
        assert follower.lacking == {("own", "1")}


async def test_a_topic_that_was_deleted_takes_nothing_from_who_runs(world: MemoryLanes) -> None:
    await registry(world).apply((ONE,), by="ada")
    async with worker(world) as (factory, _):
        world.broker.delete_topic(world.topic(TEMPLATES))
        world.create_topics()
        assert factory.template("own") == ONE
    async with worker(world) as (later, _):  # it must be applied again, as doctor's drift told
        assert not later.has("own")
        await registry(world).apply((ONE,), by="ada")
        await eventually(lambda: later.has("own"))


@pytest.mark.promise("P1")
async def test_a_request_that_came_before_its_template_was_applied_is_served(
    world: MemoryLanes,
) -> None:
    world = world.changed(template_unknown_wait_s=300)
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
        worker(world, services.factory),
    ):
        owner.serve(*await ask(program, "say: x", template="own"))
        await eventually(lambda: owner.lane.waiting == 1)
        await registry(world).apply((ONE,), by="ada")
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.template_version) == ("completed", "1")


@pytest.mark.parametrize("template", BUILT_IN_TEMPLATES, ids=lambda one: one.name)
def test_a_template_is_the_same_after_its_record_and_after_the_file_that_show_prints(
    template: AgentTemplate, tmp_path: Path
) -> None:
    event = applied_event(template, at_ms=1, by="ada")
    assert template_of(TemplateApplied.model_validate_json(event.model_dump_json())) == template
    file = tmp_path / "shown.yaml"
    file.write_text(yaml.safe_dump(event.content, sort_keys=False), encoding="utf-8")
    assert load_template(file) == template


async def test_who_waits_in_vain_for_what_was_applied_is_told_what_lacks(
    world: MemoryLanes,
) -> None:
    world = world.changed(template_unknown_wait_s=0.0)
    await registry(world).apply((NEEDS_TOOL,), by="ada")
    async with lane_services(world) as services, upstream(world) as program:
        group = services.group_templates
        follower = TemplateFollower(
            world.settings, services.factory, MetricsCollector(), group=group, io=world.io()
        )
        await follower.start()
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "say: x", template="clerk"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
            await registry(world).retire("clerk", None, by="ada")
            await eventually(lambda: group.why_not("clerk") is None)
            owner.serve(*await ask(program, "say: x", request_id="again", template="clerk"))
            _, later = await read_topic(world, RESULTS, AgentResult, count=2)
        await follower.stop()
    assert result.reason is not None
    assert result.reason.code == "unknown_template"
    assert result.reason.message.startswith(
        "template 'clerk' was applied, and this worker cannot run it: "
    )
    assert "'mail'" in result.reason.message
    assert "start a worker that has what it needs" in result.reason.message
    # What is retired is there for no new run, whatever it needs.
    assert later.reason is not None
    assert later.reason.message.startswith("no template is called 'clerk' here")


async def test_a_run_whose_version_cannot_run_any_more_is_told_why(world: MemoryLanes) -> None:
    async with lane_services(world) as services:
        waits = TemplateWaits(services, known_s=300.0, unknown_s=0.0)
        gone = str(waits.in_vain(TemplateRef("clerk", "1")))
        services.group_templates.cannot_run("clerk", "1", "no tool is called 'mail'", offered=False)
        lacks = str(waits.in_vain(TemplateRef("clerk", "1")))
        services.group_templates.can_run("clerk", "1")
        assert str(waits.in_vain(TemplateRef("clerk", "1"))) == gone
    assert "which this worker does not have; put that version back" in gone
    assert "put that version back" in gone
    assert "which this worker cannot run (no tool is called 'mail')" in lacks
    assert "start one that has what it needs" in lacks
