"""A worker with tools of its own, on real Kafka: what they do to themselves ends no worker."""

from __future__ import annotations

import signal

import pytest

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from tests.chaos.provider.bill import NOTES
from tests.harness.lanes import ask, read_topic, upstream
from tests.harness.worker_process import worker_process

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

OTHERS = ("exits", "interrupts", "cancels", "raises", "groups", "huge")


@pytest.mark.promise("P1")
async def test_a_worker_outlives_tools_that_it_was_given_by_a_factory(settings: Settings) -> None:
    await ensure_topics(settings, catalogue())
    program = ("tests.chaos.provider.worker",)
    async with (
        worker_process(settings, roles="lanes", program=program) as worker,
        upstream(settings) as upstreams,
    ):
        await worker.ready()
        for name in (*OTHERS, "note"):
            cues = f'call: {name} {{"order": "{name}"}}; say: told'
            await ask(upstreams, cues, request_id=name, template="odd_agent")
        results = await read_topic(settings, RESULTS, AgentResult, count=len(OTHERS) + 1)
        assert not worker.ended_already
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    ended = {result.request_id: (result.status, result.output) for result in results}
    assert ended == {
        **dict.fromkeys(("exits", "interrupts", "cancels"), ("failed", None)),
        **dict.fromkeys(("raises", "groups", "huge", "note"), ("completed", "told")),
    }
    assert (settings.data_dir / "worker" / NOTES).read_text() == "note\n"


LEFT = 3
APP = f'''"""An app with a tool that ends the process that calls it."""

import os

from millstream import AgentTemplate, App, tool


@tool(effect="ask_human")
def pay() -> str:
    """Pay somebody."""
    os._exit({LEFT})


app = App(
    "leaving",
    templates=[AgentTemplate(name="leaver", kind="react", tools=["pay"])],
    tools=[pay],
)
'''


@pytest.mark.promise("P2")
async def test_a_tool_with_an_effect_that_ends_its_process_is_not_called_again(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    app = settings.data_dir / "leaving.py"
    app.write_text(APP, encoding="utf-8")
    more = {"MILLSTREAM_APP": str(app)}
    async with upstream(settings) as upstreams:
        await ask(upstreams, "call: pay {}; say: done", request_id="r", template="leaver")
        await ask(upstreams, "say: hello", request_id="other", template="chat_agent")
        async with worker_process(settings, name="left", **more) as worker:
            assert await worker.ended(60) == LEFT, worker.log
        async with worker_process(settings, roles="lanes", name="next", **more) as worker:
            await worker.ready()
            results = await read_topic(settings, RESULTS, AgentResult, count=2)
            assert not worker.ended_already
    told = {one.request_id: one for one in results}
    assert told["other"].output == "hello"
    assert told["r"].reason is not None
    assert (told["r"].status, told["r"].reason.code) == ("failed", "in_doubt")
