"""The README's journeys, run as they stand there against a real broker and a real worker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from millstream.schemas.base import Address
from millstream.schemas.events import AgentRequest, AgentResult
from millstream.schemas.topics import RESULTS, TOKENS, catalogue
from millstream.streams.broker.clients import idempotent_producer
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import encode
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.harness.lanes import read_topic
from tests.harness.worker_process import worker_process

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")

_SNIPPET = re.compile(r"<!-- snippet: ([a-z-]+) -->\n```(python|sh)\n(.*?)\n```", re.DOTALL)
_NAMESPACE = re.compile(r"\bmillstream(?=\.(?:requests|tokens|results)\b)")
_TIMEOUT_S = 90.0

SNIPPETS = {name: (language, text) for name, language, text in _SNIPPET.findall(README)}
"""Language and text of each snippet, by its name."""


async def run_snippet(name: str, settings: Settings) -> str:
    """Run a snippet on the test's own topics, and give what it printed."""
    language, text = SNIPPETS[name]
    interpreter = (sys.executable, "-W", "error") if language == "python" else ("sh", "-eu")
    process = await asyncio.create_subprocess_exec(
        *interpreter,
        "-c",
        _NAMESPACE.sub(settings.namespace, text),
        cwd=PROJECT,
        env={
            **os.environ,  # noqa: TID251  what a child inherits
            "KAFKA": settings.kafka,
            "MILLSTREAM_KAFKA": settings.kafka,
            "MILLSTREAM_NAMESPACE": settings.namespace,
        },
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def write_token_of_a_lost_attempt(settings: Settings) -> None:
    """Leave on the topic what a worker wrote that was killed while it answered."""
    token = making.token(request_id="readme-1", session_id="readme", attempt=0, text="Ear")
    record = encode(token, source="/test")
    async with idempotent_producer(settings) as producer:
        await producer.send_and_wait(
            settings.topic(TOKENS.name),
            record.value,
            record.key,
            home_partition("ada", settings.partitions),
            headers=record.headers,
        )


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.plaintext(reason="the page's clients connect as on one's own machine")
async def test_the_journeys_do_what_the_readme_says(settings: Settings) -> None:
    await ensure_topics(settings, catalogue())
    await write_token_of_a_lost_attempt(settings)
    async with worker_process(settings) as worker:
        await worker.ready()
        subscriber = asyncio.create_task(run_snippet("subscribe", settings))
        assert await run_snippet("publish", settings) == ""
        shown = await subscriber
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
        # The program may be missing; that its line says what it should is tested below.
        if shutil.which("kcat") is not None:
            assert await run_snippet("publish-kcat", settings) == ""
            _, minimal = await read_topic(settings, RESULTS, AgentResult, count=2)
            assert minimal.status == "completed"
            assert minimal.request_id == str(minimal.source)
    assert result.output == "Name three planets."
    assert shown == (
        "Ear\n(the answer begins anew)\n"
        f"Name three planets.\ncompleted, {result.usage.output_tokens} tokens\n"
    )
    assert await run_snippet("read", settings) == shown
    home = home_partition("ada", settings.partitions)
    assert result.source == Address(topic=settings.topic("requests"), partition=home, offset=0)
    history = (await run_snippet("replay", settings)).splitlines()
    told = ("asks chat_agent: Name three", "admitted by", "Name three planets.", "completed, ")
    for words in told:
        assert any(words in line for line in history), history
    assert all(re.match(r"\d{4}-\d\d-\d\d ", line) for line in history)


def test_the_line_for_kcat_publishes_a_request() -> None:
    line = SNIPPETS["publish-kcat"][1]
    (value,) = re.findall(r"echo '(.*)'", line)
    request = AgentRequest.model_validate(json.loads(value))
    assert f"-t millstream.requests -k {request.user_id}" in line


def test_every_snippet_has_a_name() -> None:
    journeys = README.split("## Three journeys on Kafka")[1].split("\n## ")[0]
    named = {text for _, text in SNIPPETS.values()}
    blocks = re.findall(r"```(?:python|sh)\n(.*?)\n```", journeys, re.DOTALL)
    # The first block only says where Kafka is.
    assert blocks[0].startswith("export KAFKA=")
    assert set(blocks[1:]) == named
