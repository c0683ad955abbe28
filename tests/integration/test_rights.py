"""What brokers say of this user's rights, and whether the table of rights is what is needed."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream.gateway.checks.clock import clock_of
from millstream.gateway.checks.rights import rights_found
from millstream.schemas.topics import BASE_TOPICS, REDRIVES, REQUESTS, RESULTS
from millstream.streams.broker.clients import raw_client
from millstream.streams.broker.rights.granted import granted, granted_to
from millstream.streams.broker.rights.needed import (
    ROLES,
    TABLE,
    WHO,
    Kind,
    Resource,
    Role,
    resources_of,
)
from millstream.streams.broker.rights.protocol import (
    AuthorizedGroupsRequest,
    AuthorizedTopicsRequest,
)
from millstream.streams.broker.topic_admin import ensure_topics, topic_drift
from millstream.streams.settings import Settings
from millstream.streams.views.service import Views
from tests.e2e.programs import Ended, as_client, run
from tests.harness.guarded_kafka import allow, deny, deny_no_more, forbid, guarded_kafka
from tests.harness.views import StartViews
from tests.harness.worker_process import WorkerProcess, worker_process
from tests.support import eventually


@pytest.fixture
async def guarded(settings: Settings, tmp_path: Path) -> AsyncIterator[Settings]:
    """A broker of its own, with an authoriser, and as many partitions as commands expect."""
    wanted = settings.model_copy(update={"partitions": Settings().partitions})
    async with guarded_kafka(wanted, tmp_path) as here:
        await ensure_topics(here, BASE_TOPICS)
        yield here


def needed(settings: Settings) -> set[Resource]:
    return set(resources_of(settings))


async def test_without_an_authoriser_everything_is_allowed_in_one_line(settings: Settings) -> None:
    await ensure_topics(settings, BASE_TOPICS)
    (found,) = rights_found(settings, await granted(settings, needed(settings)))
    assert found.level == "ok"
    assert found.told.endswith(f"what {WHO['auditor']} and what {WHO['operator']} does")


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
    ids = Resource("transactional-id", f"{guarded.namespace}-chain-", is_prefix=True)
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
        assert has(lines, "lanes cannot see"), lines
        return (
            has(lines, "lanes cannot take requests", f"no Write on topic {requests.name}")
            and has(lines, "an upstream cannot send requests", f"no Write on topic {requests.name}")
            and has(lines, "lanes cannot see", "no Describe", f"topic {results.name}")
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


@pytest.mark.parametrize("versions", [(0, 2), (99, 99)], ids=["older", "newer"])
async def test_a_broker_that_does_not_know_how_to_say_leaves_it_unknown(
    settings: Settings, versions: tuple[int, int]
) -> None:
    await ensure_topics(settings, [REQUESTS])
    topic = Resource("topic", settings.topic(REQUESTS.name))
    group = Resource("group", f"{settings.namespace}-lanes")
    client = raw_client(settings)
    await client.bootstrap()
    try:
        known = await granted_to(client, [topic, group])
        assert {"Read", "Describe"} <= (known[topic] or set()) & (known[group] or set())
        for connection in client._conns.values():
            for asked in (AuthorizedTopicsRequest, AuthorizedGroupsRequest):
                connection._versions[asked.API_KEY] = versions
        assert await granted_to(client, [topic, group]) == {topic: None, group: None}
    finally:
        await client.close()


async def restrict(settings: Settings, *roles: Role) -> None:
    """Allow what `roles` need; a rule on a resource forbids all that no rule allows there."""
    rights: dict[Resource, set[str]] = defaultdict(set)
    for need in TABLE:
        for resource in need.resources(settings):
            rights[resource] |= set(need.operations) if need.role in roles else set()
    for resource, operations in rights.items():
        if operations:
            await allow(settings, resource, sorted(operations))
        else:
            await allow(settings, resource, ["Delete"], "User:nobody")
    wanted = {
        resource: operations | ({"Describe"} if operations & {"Read", "Write"} else set())
        for resource, operations in rights.items()
    }

    async def hold() -> bool:
        found = await granted(settings, rights)
        assert found == {one: wanted[one] for one in found}
        return True

    await eventually(hold)


async def ask(settings: Settings) -> Ended:
    return await run(
        as_client(settings) | {"MILLSTREAM_DATA_DIR": str(settings.data_dir)},
        *("submit", "tokens: 5", "--user", "ada", "--request-id", "r", "--timeout", "30"),
    )


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_worker_serves_with_the_rights_of_the_table_and_no_other(
    guarded: Settings,
) -> None:
    await restrict(guarded, *ROLES)
    async with worker_process(guarded) as worker:
        await worker.ready()
        told = await ask(guarded)
        assert told.code == 0, told.err
        assert "uthorization" not in worker.log
    (clock,) = await clock_of(guarded)
    assert clock.level == "ok"


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_client_and_its_doctor_do_with_the_rights_of_the_table_and_no_other(
    guarded: Settings,
) -> None:
    async with worker_process(guarded) as worker:
        await worker.ready()
        first = await ask(guarded)
        worker.signal(signal.SIGTERM)
        await worker.ended()
    await restrict(guarded, "upstream", "product")
    again = await ask(guarded)  # the answer that is there already
    assert (again.code, again.out) == (0, first.out), again.err
    environment = as_client(guarded) | {"MILLSTREAM_DATA_DIR": str(guarded.data_dir)}
    told = await run(environment, "doctor", "--json")
    findings = [json.loads(line) for line in told.out.splitlines()]
    of_kafka = {"kafka", "topics", "rights", "clock", "offsets", "templates"}
    assert [one for one in findings if one["name"] in of_kafka and one["level"] == "wrong"] == []
    wanted = "this user may do what an upstream and what a product does"
    assert wanted in {one["told"] for one in findings}


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_an_operator_does_with_the_rights_of_the_table_and_no_other(
    guarded: Settings,
) -> None:
    environment = await answered(guarded)
    template = guarded.data_dir / "template.yaml"
    template.write_text("name: brief\nsystem_prompt: Be brief.\n")
    await restrict(guarded, "operator")
    for words in (
        ["topics", "--create", "--check"],
        ["runs", "list"],
        ["templates", "apply", str(template)],
        ["templates", "list"],
        ["dead-letters", "list"],
        ["dead-letters", "redrive", "--all", "--since", "1h", "--code", "newer_schema"],
    ):
        told = await run(environment, *words)
        assert told.code == 0, (words, told.err)
    told = await run(environment, "doctor", "--json")
    findings = [json.loads(line) for line in told.out.splitlines()]
    assert any("an operator does" in one["told"] for one in findings), findings


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_an_auditor_does_with_the_rights_of_the_table_and_no_other(
    guarded: Settings,
) -> None:
    environment = await answered(guarded)
    await restrict(guarded, "auditor")
    told = await run(environment, "history", "--user", "ada")
    assert told.code == 0, told.err
    assert "completed" in told.out


async def answered(settings: Settings) -> dict[str, str]:
    """Have a worker answer a request and end; gives the environment of commands."""
    async with worker_process(settings) as worker:
        await worker.ready()
        assert (await ask(settings)).code == 0
        worker.signal(signal.SIGTERM)
        await worker.ended()
    return as_client(settings) | {"MILLSTREAM_DATA_DIR": str(settings.data_dir)}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "taken",
    [
        [("topic", ".results", "Write"), ("topic", ".requests", "Read")],
        [("topic", ".tokens", "Write"), ("topic", ".steps", "Write")],
        [("group", "-lanes", "Read"), ("transactional-id", "-chain-", "Write")],
    ],
    ids=["topics", "tokens", "group and ids"],
)
async def test_a_right_that_is_taken_from_a_running_worker_is_named_and_it_goes_on_once_it_is_back(
    guarded: Settings, taken: list[tuple[Kind, str, str]]
) -> None:
    # Else a rule that denies would forbid all else on its resource, too.
    await restrict(guarded, *ROLES)
    async with worker_process(guarded) as worker:
        await worker.ready()
        await asks(guarded, "before")
        for number, (kind, name, operation) in enumerate(taken):
            resource = Resource(kind, guarded.namespace + name, is_prefix=name.endswith("-"))
            told = f"no {operation} on {resource.kind.replace('-', ' ')} {resource}"
            deny(guarded, resource, operation)
            # Whatever it would do with the right meanwhile, it tries.
            waiting = asyncio.create_task(asks(guarded, f"r{number}"))
            await eventually(lambda told=told: told in worker.log, timeout_s=60)
            assert not worker.ended_already
            assert f"--{resource.kind} {resource.name}" in worker.log
            deny_no_more(guarded, resource, operation)
            await waiting
            await eventually(lambda number=number: told_back(worker) == number + 1, timeout_s=60)
        assert len([line for line in worker.log.splitlines() if "uthorizationFailed" in line]) < 40


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("group", ["-lanes", "-views"])
async def test_the_right_to_a_group_that_is_back_is_used_at_once(
    guarded: Settings, group: str
) -> None:
    await restrict(guarded, *ROLES)
    resource = Resource("group", guarded.namespace + group)
    async with worker_process(guarded) as worker:
        await worker.ready()
        deny(guarded, resource, "Read")
        await eventually(lambda: "a part is built anew" in worker.log, timeout_s=60)
        await eventually(lambda: "not ready" in worker.log, timeout_s=60)
        deny_no_more(guarded, resource, "Read")
        # Not after the two minutes in which a part may start.
        await eventually(lambda: "ready again" in worker.log, timeout_s=30)
        await asks(guarded, "after")


@pytest.mark.slow
async def test_an_operator_who_lacks_a_right_is_told_so_and_not_that_brokers_are_away(
    guarded: Settings,
) -> None:
    template = guarded.data_dir / "template.yaml"
    template.write_text("name: brief\nsystem_prompt: Be brief.\n")
    environment = as_client(guarded) | {"MILLSTREAM_DATA_DIR": str(guarded.data_dir)}
    resource = Resource("transactional-id", f"{guarded.namespace}-templates")
    deny(guarded, resource, "Write")

    async def is_told() -> bool:
        told = await run(environment, "templates", "apply", str(template))
        return told.code != 0 and "this user lacks a right on Kafka" in told.err

    await eventually(is_told, timeout_s=30)  # the broker is told of rules later


def told_back(worker: WorkerProcess) -> int:
    """Give how often the worker has told that it has its rights back."""
    return worker.log.count("this user has the rights on Kafka that it lacked")


async def asks(settings: Settings, request_id: str) -> None:
    """Ask for what writes tokens, steps and a journal."""
    told = await run(
        as_client(settings) | {"MILLSTREAM_DATA_DIR": str(settings.data_dir)},
        *("submit", 'call: calculator {"expression": "12*12"}; say: it is 144', "--user", "ada"),
        *("--template", "react_agent", "--request-id", request_id, "--timeout", "120"),
    )
    assert (told.code, told.out) == (0, "it is 144\n"), told.err
