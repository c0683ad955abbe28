"""The example of an app, order support: its own tests, and its worker and shop on real Kafka."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from tests.harness.lanes import Upstream, ask, read_topic, upstream
from tests.harness.worker_process import WorkerProcess, worker_process

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
APP = str(EXAMPLES / "order_support" / "app.py")
TEMPLATE = "order_support"

REFUND = 'call: refund_order {"number": "A-1001", "reason": "it leaks"}; say: {tool_result}'
FIND = 'call: find_order {"number": "A-1001"}; say: {tool_result}'
RATE = 10
"""Requests in a minute, by the example's policy."""


@asynccontextmanager
async def the_shop() -> AsyncIterator[str]:
    """Run the shop as a process; gives its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "order_support.shop", "0", cwd=EXAMPLES, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


async def refunds(shop: str) -> list[str]:
    """Ask the shop what it refunded."""
    async with aiohttp.ClientSession() as http, http.get(f"{shop}/refunds") as answer:
        given: list[str] = await answer.json()
        return given


@dataclass
class Gate:
    """Stands before the shop, and keeps its answers to refunds back until it is opened."""

    shop: str
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    keys: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve; gives the address."""
        server = web.Application()
        server.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            self.opened.set()
            await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.Response:
        url, body = f"{self.shop}{request.path}", await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with (
            aiohttp.ClientSession() as http,
            http.request(request.method, url, data=body, headers=headers) as answer,
        ):
            content, status = await answer.read(), answer.status
        if request.method == "POST":
            self.keys.append(request.headers["Idempotency-Key"])
            self.reached.set()
            await self.opened.wait()
        return web.Response(body=content, status=status, content_type="application/json")


@asynccontextmanager
async def support(settings: Settings, shop: str, name: str) -> AsyncIterator[WorkerProcess]:
    """Run a worker with the app."""
    more = {"MILLSTREAM_APP": APP, "SHOP_URL": shop}
    async with worker_process(settings, roles="lanes", name=name, **more) as worker:
        await worker.ready()
        yield worker


class Answers:
    """The results on the topic, by their requests."""

    def __init__(self, settings: Settings, upstreams: Upstream) -> None:
        self._settings = settings
        self._upstream = upstreams
        self._asked = 0

    async def publish(self, text: str, user: str, **fields: Any) -> str:
        """Publish a question; gives its id."""
        self._asked += 1
        request_id = f"r{self._asked}"
        await ask(
            self._upstream, text, request_id=request_id, user_id=user, template=TEMPLATE, **fields
        )
        return request_id

    async def come(self) -> dict[str, AgentResult]:
        """Wait until all that was asked is answered."""
        results = await read_topic(self._settings, RESULTS, AgentResult, count=self._asked)
        return {result.request_id: result for result in results}

    async def to(self, text: str, user: str) -> AgentResult:
        """Ask, with nothing else open."""
        request_id = await self.publish(text, user)
        return (await self.come())[request_id]


def code_of(result: AgentResult) -> str | None:
    return None if result.reason is None else result.reason.code


async def test_the_examples_own_tests_pass() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        cwd=EXAMPLES,
        stdout=PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert b"passed" in out


@pytest.mark.timeout(120)
async def test_orders_are_found_and_refunded_once_and_only_for_their_customer(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    async with the_shop() as shop, support(settings, shop, "one"), upstream(settings) as program:
        answers = Answers(settings, program)
        assert "a kettle" in str((await answers.to(FIND, "ada")).output)
        assert (await answers.to(REFUND, "ada")).output == '{"refunded": "A-1001"}'
        assert "refunded already" in str((await answers.to(REFUND, "ada")).output)
        for text in (FIND, REFUND):
            other = await answers.to(text, "bob")
            assert other.output == '{"error": "the customer has no such order"}'
        assert await refunds(shop) == ["A-1001"]
        # A question while the last one is open: the layer. Too many of them: the policy.
        first = await answers.publish("slow: 1; say: yes", "cyd")
        second = await answers.publish("say: no", "cyd")
        both = await answers.come()
        assert both[first].status == "completed"
        assert (both[second].status, code_of(both[second])) == ("rejected", "rate_limited")
        assert "wait for the answer" in str(both[second].reason)
        asked = [await answers.to("say: yes", "cyd") for _ in range(RATE)]
    assert [result.status for result in asked] == [*["completed"] * (RATE - 1), "rejected"]
    assert code_of(asked[-1]) == "rate_limited"
    assert f"may make {RATE} requests in 60 s" in str(asked[-1].reason)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_worker_that_is_killed_in_the_middle_of_a_refund_refunds_once(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    async with the_shop() as shop, upstream(settings) as program:
        gate, answers = Gate(shop), Answers(settings, program)
        async with gate.serving() as address:
            async with support(settings, address, "killed") as worker:
                refund = await answers.publish(REFUND, "ada")
                async with asyncio.timeout(60):
                    await gate.reached.wait()
                worker.signal(signal.SIGKILL)
                await worker.ended()
            # The open question is known to the layer of whoever takes over, until it is ended.
            async with support(settings, address, "next"):
                gate.opened.set()
                ended = (await answers.come())[refund]
                later = await answers.to(FIND, "ada")
        assert (ended.status, code_of(ended)) == ("completed", None), ended
        assert '"state": "refunded"' in str(later.output)
        assert await refunds(shop) == ["A-1001"]
        # Asked for twice under one key: the first call was under way as its worker was killed.
        assert len(gate.keys) == 2
        assert len(set(gate.keys)) == 1
