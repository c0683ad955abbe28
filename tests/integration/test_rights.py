"""What brokers say of this user's rights, and whether the table of rights is what is needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream.gateway.checks.clock import clock_of
from millstream.gateway.checks.rights import rights_found
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import BASE_TOPICS, REDRIVES, REQUESTS, RESULTS
from millstream.streams.broker.rights.granted import granted
from millstream.streams.broker.rights.needed import ROLES, Resource, needs_of
from millstream.streams.broker.topic_admin import ensure_topics, topic_drift
from millstream.streams.settings import Settings
from millstream.streams.views.service import Views
from tests.harness.guarded_kafka import allow, forbid, guarded_kafka
from tests.harness.lanes import read_topic, upstream
from tests.harness.views import StartViews
from tests.harness.worker_process import worker_process
from tests.support import eventually


@pytest.fixture
async def guarded(settings: Settings, tmp_path: Path) -> AsyncIterator[Settings]:
    """A broker of its own, with an authoriser."""
    async with guarded_kafka(settings, tmp_path) as here:
        await ensure_topics(here, BASE_TOPICS)
        yield here


def needed(settings: Settings) -> set[Resource]:
    return {one for role in ROLES for need in needs_of(role) for one in need.resources(settings)}


async def test_without_an_authoriser_everything_is_allowed_in_one_line(settings: Settings) -> None:
    await ensure_topics(settings, BASE_TOPICS)
    (found,) = rights_found(settings, await granted(settings, needed(settings)))
    assert found.level == "ok"
    assert found.told == "this user may do what a worker and what a client does"


async def test_the_table_names_the_changelogs_of_the_views(
    deployment: Settings, start_views: StartViews
) -> None:
    views: Views = await start_views()
    made = {view.changelog for view in views._views.values()}
    told = {one.name for one in needed(deployment) if one.name.endswith("-changelog")}
    assert made == told


@pytest.mark.slow
async def test_each_right_that_lacks_is_told_with_what_it_breaks_and_how_to_give_it(
    guarded: Settings,
) -> None:
    requests = Resource("topic", guarded.topic(REQUESTS.name))
    results = Resource("topic", guarded.topic(RESULTS.name))
    redrives = Resource("topic", guarded.topic(REDRIVES.name))
    lanes = Resource("group", f"{guarded.namespace}-lanes")
    ids = Resource("transactional-id", f"{guarded.namespace}-")
    await forbid(guarded, requests, "Write")
    await forbid(guarded, results, "Describe")
    await allow(guarded, redrives, ["Describe"])
    await forbid(guarded, lanes, "Read")
    await allow(guarded, ids, ["Describe"])

    async def told() -> list[str]:
        found = rights_found(guarded, await granted(guarded, needed(guarded)))
        assert {one.level for one in found} == {"wrong", "note"}
        return [f"{one.told} → {one.remedy}" for one in found]

    def has(lines: list[str], *words: str) -> bool:
        return any(all(word in line for word in words) for line in lines)

    async def all_are_told() -> bool:
        lines = await told()
        assert has(lines, "a worker cannot see"), lines
        return (
            has(lines, "a worker cannot take requests", f"no Write on topic {requests.name}")
            and has(lines, "a client cannot send requests", f"no Write on topic {requests.name}")
            and has(lines, "a worker cannot see", "no Describe", f"topic {results.name}")
            and has(lines, "no DescribeConfigs on topic", redrives.name)
            and has(lines, "share of partitions", f"--operation Read --group {lanes.name}")
            and has(lines, "commit anything", f"--transactional-id {ids.name} ", "prefixed")
        )

    await eventually(all_are_told)  # the broker is told of rules later
    (clock,) = await clock_of(guarded)
    assert (clock.level, clock.told[:9]) == ("note", "not known")
    drifts = {one.topic: one for one in await topic_drift(guarded, BASE_TOPICS)}
    assert drifts[results.name].found == "hidden from this user"
    assert "Describe" in drifts[results.name].remedy
    assert "DescribeConfigs" in drifts[redrives.name].remedy


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_worker_and_a_client_serve_with_the_rights_of_the_table_and_no_other(
    guarded: Settings,
) -> None:
    """A rule on a resource forbids all that no rule allows there."""
    rights: dict[Resource, set[str]] = defaultdict(set)
    for role in ROLES:
        for need in needs_of(role):
            for resource in need.resources(guarded):
                rights[resource] |= set(need.operations)
    for resource, operations in rights.items():
        await allow(guarded, resource, sorted(operations))

    async def hold() -> bool:
        found = await granted(guarded, rights)
        return found[Resource("topic", guarded.topic(REDRIVES.name))] == {
            *("Create", "Describe", "DescribeConfigs"),
        }

    await eventually(hold)
    async with worker_process(guarded) as worker, upstream(guarded) as program:
        await worker.ready()
        await program.publish({"user_id": "ada", "request_id": "r", "input": "tokens: 5"})
        (result,) = await read_topic(guarded, RESULTS, AgentResult, count=1)
        assert (result.request_id, result.status) == ("r", "completed"), worker.log
        assert "uthorization" not in worker.log
