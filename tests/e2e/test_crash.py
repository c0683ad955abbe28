"""One result each, whatever happens to the workers: real processes, ended in the middle of runs."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from contextlib import AsyncExitStack

import pytest

from schemas.events import AgentResult, AgentToken
from schemas.topics import RESULTS, TOKENS, catalogue
from streams.settings import Settings
from streams.topic_admin import ensure_topics
from tests.lane_harness import Upstream, read_topic, read_whole, upstream
from tests.support import eventually
from tests.worker_process import worker_process

REQUESTS_PUBLISHED = 60


async def publish_many(program: Upstream) -> set[str]:
    """Publish runs of about a third of a second each, of 20 users with a session each."""
    ids = set()
    for number in range(REQUESTS_PUBLISHED):
        user = f"user-{number % 20}"
        request_id = f"{user}.{number:03}"
        ids.add(request_id)
        await program.publish(
            {
                "user_id": user,
                "session_id": "s",
                "request_id": request_id,
                "input": "pace: 0.03; tokens: 10",
            },
            key=user.encode(),
        )
    return ids


async def assert_each_has_one_result(settings: Settings, ids: set[str]) -> list[AgentResult]:
    await read_topic(settings, RESULTS, AgentResult, count=len(ids), timeout_s=90)
    results = await read_whole(settings, RESULTS, AgentResult)
    assert sorted(result.request_id for result in results) == sorted(ids)
    assert {result.status for result in results} == {"completed"}
    by_session = defaultdict(list)
    for result in results:
        by_session[result.user_id].append(result.request_id)
    assert all(order == sorted(order) for order in by_session.values())
    return results


async def assert_tokens_make_the_results(settings: Settings, results: list[AgentResult]) -> None:
    wanted = sum(result.last_seq + 1 for result in results)
    tokens = await read_topic(settings, TOKENS, AgentToken, count=wanted)
    texts: dict[tuple[str, int], list[AgentToken]] = defaultdict(list)
    for token in tokens:
        texts[token.request_id, token.attempt].append(token)
    for result in results:
        of_result = texts[result.request_id, result.attempt]
        assert [token.seq for token in of_result] == list(range(result.last_seq + 1))
        assert "".join(token.text for token in of_result) == result.output
        superseded = [attempt for name, attempt in texts if name == result.request_id]
        if len(superseded) > 1:
            assert of_result[0].text == "", "an attempt that follows another announces itself"
        assert max(attempt for name, attempt in texts if name == result.request_id) == (
            result.attempt
        )


@pytest.mark.timeout(180)
async def test_a_worker_killed_in_mid_run_leaves_one_result_each(settings: Settings) -> None:
    await ensure_topics(settings, catalogue())
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(worker_process(settings, roles="lanes", name=name))
            for name in ("first", "second")
        ]
        await asyncio.gather(first.ready(), second.ready())
        program = await stack.enter_async_context(upstream(settings))
        ids = await publish_many(program)
        await read_topic(settings, RESULTS, AgentResult, count=5)
        await first.kill()
        results = await assert_each_has_one_result(settings, ids)
        await assert_tokens_make_the_results(settings, results)
    assert "lane open" in second.log


@pytest.mark.timeout(180)
async def test_a_worker_that_slept_past_its_session_publishes_nothing_wrong(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(worker_process(settings, roles="lanes", name=name))
            for name in ("first", "second")
        ]
        await asyncio.gather(first.ready(), second.ready())
        program = await stack.enter_async_context(upstream(settings))
        ids = await publish_many(program)
        await read_topic(settings, RESULTS, AgentResult, count=5)
        first.signal(signal.SIGSTOP)
        await assert_each_has_one_result(settings, ids)
        first.signal(signal.SIGCONT)
        # Its runs are another's by now. It may serve again, once the group says so.
        await eventually(lambda: "lane given up" in first.log or "lane lost" in first.log)
        later = {f"user-{number}.later" for number in range(20)}
        for name in sorted(later):
            user = name.removesuffix(".later")
            await program.publish(
                {"user_id": user, "session_id": "s", "request_id": name, "input": "tokens: 10"},
                key=user.encode(),
            )
        results = await assert_each_has_one_result(settings, ids | later)
        await assert_tokens_make_the_results(settings, results)


@pytest.mark.timeout(180)
async def test_sigterm_ends_a_worker_with_exit_code_0_and_nothing_lost(settings: Settings) -> None:
    await ensure_topics(settings, catalogue())
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(worker_process(settings, name="first"))
        await first.ready()
        program = await stack.enter_async_context(upstream(settings))
        ids = await publish_many(program)
        await read_topic(settings, RESULTS, AgentResult, count=5)
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0, first.log[-4000:]
        second = await stack.enter_async_context(worker_process(settings, name="second"))
        await second.ready()
        results = await assert_each_has_one_result(settings, ids)
        await assert_tokens_make_the_results(settings, results)
