"""A worker with an app that names MCP servers, on real Kafka."""

from __future__ import annotations

import signal

import pytest

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from tests.harness.lanes import ask, read_topic, upstream
from tests.harness.mcp import OFFICIAL
from tests.harness.worker_process import worker_process

pytestmark = [pytest.mark.timeout(120)]

APP = """
import sys

from millstream import AgentTemplate, App, McpServer

app = App(
    "support",
    templates=[AgentTemplate(name="support", kind="react", tools=("orders.*", "down.lookup"))],
    mcp_servers=[
        McpServer(name="orders", command=sys.executable, args=({official!r}, "stdio", {log!r})),
        McpServer(name="down", url="http://127.0.0.1:9/mcp"),
    ],
)
"""


async def test_a_worker_answers_with_the_tools_of_a_server_and_without_one_that_is_down(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    app, log = settings.data_dir / "support.py", settings.data_dir / "orders.log"
    app.write_text(APP.format(official=OFFICIAL, log=str(log)))
    async with (
        worker_process(settings, roles="lanes", MILLSTREAM_APP=str(app)) as worker,
        upstream(settings) as upstreams,
    ):
        await worker.ready()
        found = 'call: orders_lookup {"order": "7"}; say: {tool_result}'
        await ask(upstreams, found, request_id="found", template="support")
        down = "call: down_lookup {}; say: {tool_result}"
        await ask(upstreams, down, request_id="down", template="support")
        results = await read_topic(settings, RESULTS, AgentResult, count=2)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    told = {result.request_id: str(result.output) for result in results}
    assert told["found"] == "order 7 is on its way"
    assert "the MCP server 'down' cannot be reached" in told["down"]
    assert "the call was not made" in told["down"]
    assert log.read_text() == "lookup 7\n"
