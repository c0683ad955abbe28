"""Workers whose apps differ, on one log of real Kafka: a deploy of a new template loses nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.topics import DECISIONS, PARKED, RESULTS
from millstream.streams.settings import Settings
from tests.harness.lanes import open_keys, read_topic, read_whole, running_lanes, upstream
from tests.support import eventually

pytestmark = [pytest.mark.rule(10), pytest.mark.promise("P1")]

QUICK = {"template_unknown_wait_s": 30, "session_timeout_s": 6, "revoke_grace_s": 2}


def app(*names: str) -> tuple[AgentTemplate, ...]:
    return (*BUILT_IN_TEMPLATES, *(AgentTemplate(name=name) for name in names))


@pytest.mark.timeout(60)
async def test_a_rolling_deploy_of_a_new_template_loses_no_request(settings: Settings) -> None:
    settings = settings.model_copy(update=QUICK)
    asked = {f"r{number}": f"user-{number % 6}" for number in range(24)}
    async with upstream(settings) as program, AsyncExitStack() as old:
        (before,) = await old.enter_async_context(running_lanes(settings))
        for number, (request_id, user) in enumerate(asked.items()):
            template = "new" if number % 2 else "chat_agent"
            value = {"user_id": user, "request_id": request_id, "template": template}
            await program.publish({**value, "input": "say: x"}, key=user.encode())
        await read_topic(settings, RESULTS, AgentResult, count=12)
        await eventually(lambda: before.figures().lacking == 12)
        async with running_lanes(settings, templates=app("new")) as (after,):
            # What waits is moved to who can run it, while both are there.
            await eventually(lambda: before.figures().lacking == 0, timeout_s=30)
            both = (before, after)
            await eventually(
                lambda: sum(one.figures().open for one in both) == settings.partitions, timeout_s=30
            )
            await old.aclose()
            results = await read_topic(settings, RESULTS, AgentResult, count=24)
            await eventually(lambda: after.figures().open == settings.partitions, timeout_s=30)
            assert after.figures().lacking == 0
    assert {one.request_id for one in results} == set(asked)
    assert {one.status for one in results} == {"completed"}
    assert len(await read_whole(settings, DECISIONS, Decision)) == 24
    assert await open_keys(settings, PARKED) == set()


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_three_workers_with_an_app_each_on_one_log_lose_no_request(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={**QUICK, "partitions": 2})
    names = ("one", "two", "three")
    async with AsyncExitStack() as stack, upstream(settings) as program:
        workers = [running_lanes(settings, templates=app(name)) for name in names]
        await asyncio.gather(*map(stack.enter_async_context, workers))
        for number in range(18):
            user = f"user-{number % 5}"
            value = {"user_id": user, "request_id": f"r{number}", "template": names[number % 3]}
            await program.publish({**value, "input": "say: x"}, key=user.encode())
        results = await read_topic(settings, RESULTS, AgentResult, count=18, timeout_s=90)
    assert {one.status for one in results} == {"completed"}
    assert len({one.request_id for one in results}) == 18
    assert await open_keys(settings, PARKED) == set()
