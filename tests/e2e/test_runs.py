"""`millstream runs` as real processes, and the lines of its how-to as they stand there."""

from __future__ import annotations

import asyncio
import json
import re
from asyncio.subprocess import PIPE
from collections.abc import Mapping

import pytest

from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.topics import DECISIONS, JOURNAL, RESULTS
from millstream.streams.settings import Settings
from tests.e2e.programs import PROJECT, Ended, as_client, ended, run
from tests.harness.lanes import read_topic, read_whole, running_lanes, upstream
from tests.services.users import variables_as
from tests.support import eventually

PAGE = (PROJECT / "docs" / "how-to" / "runs.md").read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"<!-- snippet: ([a-z-]+) -->\n```sh\n(.*?)\n```", PAGE, re.DOTALL))


def app(version: str) -> tuple[AgentTemplate, ...]:
    return (*BUILT_IN_TEMPLATES, AgentTemplate(name="orders", version=version))


async def run_snippet(name: str, variables: Mapping[str, str]) -> Ended:
    """Run lines of the page."""
    given = (f"{name}={value}" for name, value in variables_as(variables, "operator").items())
    process = await asyncio.create_subprocess_exec(
        "env", *given, "sh", "-euc", SNIPPETS[name], cwd=PROJECT, stdout=PIPE, stderr=PIPE
    )
    return await ended(process)


async def doctor(variables: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Give what `doctor` finds: level and words by name, of which the last one counts."""
    told = await run(variables, "doctor", "--json")
    assert told.code == 1, told.err
    found = map(json.loads, told.out.splitlines())
    return {one["name"]: (one["level"], one["told"]) for one in found}


@pytest.mark.slow
@pytest.mark.promise("P1")
@pytest.mark.timeout(240)
async def test_a_deploy_that_takes_a_version_away_shows_what_waits_for_it_and_it_goes_on(
    settings: Settings,
) -> None:
    variables = as_client(settings)
    value = {"user_id": "ada", "session_id": "s1", "input": "hang", "template": "orders"}
    async with upstream(settings) as program:
        async with running_lanes(settings, templates=app("1")):
            await program.publish({**value, "request_id": "r1"}, key=b"ada")
            await read_topic(settings, DECISIONS, Decision, count=1)
        async with running_lanes(settings, templates=app("2")) as (after,):
            await eventually(lambda: after.figures().versions_lacking == 1, timeout_s=30)
            listed = await run_snippet("list", variables)
            shown = await run_snippet("show", variables)
            nothing = await run(variables, "runs", "list", "--state", "paused")
            other = await run(variables, "runs", "show", "r9", "--user", "ada")
            wrong = await doctor(variables)
        nobody = await run(variables, "runs", "list", "--json", "--state", "lacking")
        alone = await doctor(variables)
        async with running_lanes(settings, templates=(*app("1"), *app("2")[-1:])):
            cancelled = await run(variables, "cancel", "--user", "ada", "--request", "r1")
            (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
            gone = await run(variables, "runs", "show", "r1", "--user", "ada")
    assert listed.code == 0, listed.err
    why = "waits for a worker that has template 'orders', version '1'"
    assert listed.out.count(why) == 3
    assert listed.err == "1 lacking\n" * 3
    assert (shown.code, shown.err) == (0, "")
    assert re.search(rf"^why +{re.escape(why)}$", shown.out, re.MULTILINE), shown.out
    assert re.search(r"^template +orders 1$", shown.out, re.MULTILINE)
    assert (nothing.code, nothing.out) == (0, "")
    assert nothing.err == "no such run is open; 1 others are, of orders 1\n"
    assert (other.code, other.out) == (8, "")
    assert "user ada has no open request r9" in other.err
    (one,) = [json.loads(line) for line in nobody.out.splitlines()]
    assert (one["state"], one["request_id"], one["template_version"]) == ("lacking", "r1", "1")
    assert one["waits_for"]["version"] == "1"
    stranded = "1 run waits for template 'orders', version '1', which they began with: no live "
    assert wrong["templates"] == ("wrong", f"{stranded}worker has it")
    assert wrong["workers"][0] == "ok"
    assert alone["templates"] == wrong["templates"]
    assert alone["workers"][0] == "wrong"
    assert alone["workers"][1].startswith("none is in the group ")
    assert cancelled.code == 0, cancelled.err
    assert (result.request_id, result.status) == ("r1", "cancelled")
    assert gone.code == 8
    assert "request r1 has ended: cancelled" in gone.err


ORDERS = {"name": "orders", "kind": "react", "tools": ("calculator",)}
CALL = 'call: calculator {"expression": "6*7"}'


def versioned(version: str, script: str, **fields: object) -> tuple[AgentTemplate, ...]:
    given = {**ORDERS, "version": version, "models": (f"scripted:{CALL}; {script}",), **fields}
    return (*BUILT_IN_TEMPLATES, AgentTemplate.model_validate(given))


@pytest.mark.slow
@pytest.mark.promise("P1", "P2")
@pytest.mark.timeout(300)
async def test_runs_whose_version_is_gone_are_moved_and_go_on_behind_what_they_did(
    settings: Settings,
) -> None:
    """Two workers of different versions: one after the other, then side by side."""
    variables = as_client(settings)
    settings = settings.model_copy(update={"session_timeout_s": 6, "revoke_grace_s": 2})
    first = versioned("1", "hang")
    second = versioned("2", "say: it is {tool_result}", system_prompt="Be kind.")
    value = {"input": "go", "template": "orders"}
    async with upstream(settings) as program:
        async with running_lanes(settings, templates=first):
            await program.publish({**value, "user_id": "ada", "request_id": "r1"}, key=b"ada")
            await read_topic(settings, JOURNAL, JournalStep, count=2)
            running = await run(variables, "runs", "migrate", "r1", "--user", "ada", "--to", "2")
        async with running_lanes(settings, templates=second) as (after,):
            await eventually(lambda: after.figures().versions_lacking == 1, timeout_s=30)
            moved = await run_snippet("migrate", variables)
            (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
            ended = await run(variables, "runs", "migrate", "r1", "--user", "ada", "--to", "2")
            history = await run(variables, "history", "--user", "ada", "--request", "r1")
        async with running_lanes(settings, templates=first) as (old,):
            paused = await run(variables, "pause", "--user", "bob", "--request", "r2")
            await program.publish({**value, "user_id": "bob", "request_id": "r2"}, key=b"bob")
            await eventually(lambda: old.figures().waiting == 1)
            async with running_lanes(settings, templates=second):
                # Its partition is handed to the worker that has the version, if it is not there.
                beside = await run(variables, "runs", "migrate", "r2", "--user", "bob", "--to", "2")
                shown = await run(variables, "runs", "show", "r2", "--user", "bob")
                await run(variables, "resume", "--user", "bob", "--request", "r2")
                # Of two partitions, which are read in any order.
                both = await read_topic(settings, RESULTS, AgentResult, count=2)
            assert old.failure is None
    assert (running.code, "run_under_way" in running.out) == (3, True), running.out
    assert moved.code == 0, moved.err
    assert moved.out.splitlines() == [
        "r1 of ada: could go on with version 2, no longer 1",
        "r1 of ada: goes on with version 2, no longer 1",
    ]
    assert (result.status, result.output, result.template_version) == ("completed", "it is 42", "2")
    steps = await read_whole(settings, JOURNAL, JournalStep)
    made = [one.kind for one in steps if one.request_id == "r1"]
    assert (made.count("done"), made.count("moved")) == (1, 1)
    assert (ended.code, "run_ended" in ended.out) == (3, True), ended.out
    assert "goes on with version 2, no longer 1" in history.out
    assert paused.code == 8  # none had come
    assert beside.code == 0, beside.out + beside.err
    assert re.search(r"^moved +from 1 to 2 at ", shown.out, re.MULTILINE), shown.out
    (other,) = [one for one in both if one.request_id == "r2"]
    assert (other.output, other.template_version) == ("it is 42", "2")
