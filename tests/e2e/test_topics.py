"""Topics as somebody sets them: made so by a worker, told of by commands, refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from millstream.gateway.exits import ExitCode
from millstream.schemas.events import AgentRequest
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings
from tests.e2e.programs import as_client, run
from tests.harness.worker_process import worker_process
from tests.services.users import acting_as

TOPICS = """\
tokens:
  retention.ms: 7200000
checkpoints:
  retention.ms: 172800000
"*":
  min.cleanable.dirty.ratio: null
"""


@pytest.mark.slow
async def test_a_worker_makes_topics_as_they_are_set_and_commands_say_what_differs(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "topics.yaml"
    file.write_text(TOPICS, encoding="utf-8")
    plain = as_client(settings) | {"MILLSTREAM_DATA_DIR": str(settings.data_dir)}
    given = plain | {"MILLSTREAM_TOPICS_FILE": str(file)}
    async with worker_process(settings, MILLSTREAM_TOPICS_FILE=str(file)) as worker:
        await worker.ready()
        async with KafkaBus(acting_as(settings, "client")) as bus:
            await bus.publish(AgentRequest(user_id="ada", request_id="r1", input="say: hello"))
        told = await run(given, "topics", "--check", "--json")
        assert told.code == ExitCode.OK, told.err
        facts = {one["name"]: one for one in map(json.loads, told.out.splitlines())}
        kept = {name: facts[name]["retention_ms"] for name in ("tokens", "steps", "journal")}
        assert kept == {"tokens": 7_200_000, "steps": 7_200_000, "journal": 172_800_000}
        assert "min.cleanable.dirty.ratio" not in facts["lanes"]["configs"]
        otherwise = await run(plain, "topics", "--check")
        assert otherwise.code == ExitCode.DRIFT
        assert (
            f"kafka-configs.sh --bootstrap-server {settings.kafka} --alter --entity-type topics "
            f"--entity-name {settings.topic('tokens')} --add-config 'retention.ms=86400000'"
        ) in " ".join(otherwise.err.split())
        ended = await run(plain, "submit", "say: hello", "--user", "ada", "--request-id", "r1")
        assert (ended.code, ended.out) == (0, "hello\n"), ended.err


async def test_what_cannot_be_set_ends_a_command_with_a_line(settings: Settings) -> None:
    wrong = {"MILLSTREAM_TOPICS": '{"results": {"retention.ms": 86400000}}'}
    told = await run(as_client(settings) | wrong, "topics")
    assert told.code == ExitCode.UNAVAILABLE
    assert "MILLSTREAM_TOPICS: results: retention.ms is 86400000 (1 d), and must be" in told.err


async def test_doctor_names_what_a_cluster_refuses_before_any_topic_is_made(
    settings: Settings,
) -> None:
    # These brokers store nothing remotely.
    remote = {"MILLSTREAM_TOPICS": '{"tokens": {"remote.storage.enable": true}}'}
    told = await run(as_client(settings) | remote, "doctor", "--json")
    findings = [json.loads(line) for line in told.out.splitlines()]
    (refused,) = [one for one in findings if "Kafka refuses topic" in one["told"]]
    assert refused["level"] == "wrong"
    assert """{"*": {"remote.storage.enable": null}}""" in refused["told"]
    missing = [one for one in findings if one["told"].startswith(settings.topic("tokens"))]
    assert missing
