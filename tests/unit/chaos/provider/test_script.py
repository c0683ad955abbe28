"""Every step of the provider's scripts, by the executor alone: its fate is what they say."""

from __future__ import annotations

import io
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.calls import Calls
from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.resolve import resolve_model
from tests.chaos.provider.bill import NOTES
from tests.chaos.provider.script import (
    ATTEMPTS_MAX,
    STEPS,
    TEMPLATES,
    Script,
    answer_of,
    plan,
    provider_value,
)
from tests.chaos.provider.server import Provider
from tests.chaos.provider.tools import odd_tools
from tests.chaos.provider.worker import templates
from tests.harness.agent_runs import Runs, resolved
from tests.harness.audit import ANY_TEXT

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")

# In the lane, and not in the executor, a call that gave no answer is in doubt.
EACH = [
    pytest.param(Script(0, template, (name,)), id=f"{name}-{template}")
    for name, step in STEPS.items()
    for template in step.templates
    if name != "call-pays"
]


@asynccontextmanager
async def playing() -> AsyncIterator[tuple[str, io.StringIO]]:
    log = io.StringIO()
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", Provider(log, pace_s=0.0).complete)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", log
    finally:
        await runner.cleanup()


async def run(script: Script, url: str, http: ProviderHttp, data: Path) -> RunOutcome:
    """Run a request as a lane does, attempt after attempt, but without the waits."""
    factory = AgentFactory(
        default_model="openai:counted",
        templates=templates(attempt_s=0.3, grace_s=0.1),
        tools=odd_tools(data, blocks_s=1.0),
        resolve=partial(resolve_model, http=http, base_url=url, api_key="w"),
    )
    runs, calls = Runs(factory), Calls()
    request = resolved(script.request_id, template=TEMPLATES[script.template])
    for number in range(ATTEMPTS_MAX):
        outcome = await runs.run(
            request, executor=AgentExecutor(factory), attempt=1000 + number, calls=calls
        )
        if not outcome.retryable:
            break
    return outcome


@pytest.mark.parametrize("script", EACH)
async def test_what_comes_of_a_step_is_what_its_script_says(script: Script, tmp_path: Path) -> None:
    http = ProviderHttp()
    try:
        async with playing() as (url, log):
            outcome = await run(script, url, http, tmp_path)
    finally:
        await http.close()
    fate, reason = script.fate, outcome.result.reason
    assert ("" if reason is None else reason.code) == fate.code, reason
    if fate.whole_text:
        assert outcome.result.output == answer_of(script.request_id)
    notes = tmp_path / NOTES
    made = notes.read_text().split() if notes.exists() else []
    assert made == [script.request_id] * fate.notes
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert lines[0]["step"] == script.steps[0]


def test_a_script_is_read_from_its_requests_id() -> None:
    script = Script(12, "odd", ("reset", "call-note", "usage-none"))
    assert script.request_id == "p00012.odd.reset.call-note.usage-none"
    assert Script.of(script.request_id) == script
    assert [script.step(call) for call in range(4)] == [*script.steps, "ok"]


def test_three_failures_that_pass_end_a_run_and_two_do_not() -> None:
    twice = Script(0, "chat", ("eof", "status-503")).fate
    assert (twice.code, twice.whole_text) == ("", True)
    assert Script(0, "odd", ("eof", "call-note", "eof", "reset")).fate.code == "model_failed"
    assert Script(0, "odd", ("eof", "call-note", "eof", "reset")).fate.notes == 1
    assert Script(0, "odd", ("eof", "eof", "eof", "call-note")).fate.notes == 0


def test_a_plan_has_every_step_and_the_same_seed_the_same_plan() -> None:
    first, second = (random.Random(1) for _ in range(2))  # noqa: S311  only to be repeatable
    load = plan(200, first)
    assert {step for one in load for step in Script.of(one.request_id).steps} == set(STEPS)
    assert load == plan(200, second)
    assert any(one.fails for one in load)
    assert {one.answer for one in load} > {ANY_TEXT}
    assert len({one.session for one in load}) < len(load) / 2
    users = {one.session_id: one.user_id for one in load}
    assert all(users[one.session_id] == one.user_id for one in load)
    value = json.loads(provider_value(load[0]))
    assert value["input"] == value["request_id"] == load[0].request_id
    assert value["template"] in TEMPLATES.values()
