"""`millstream dead-letters` as real processes, and the lines of its how-to as they stand there."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from asyncio.subprocess import PIPE
from collections.abc import Mapping

import pytest
from aiokafka import TopicPartition

from millstream.schemas.base import Address, Reason
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import DEAD_LETTERS, INPUT_BYTES_MAX, REQUESTS, RESULTS, catalogue
from millstream.streams.broker.clients import idempotent_producer
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings
from tests import making
from tests.contracts.log_world import started
from tests.e2e.programs import PROJECT, Ended, as_client, ended, interrupt, millstream, run
from tests.harness.lanes import read_topic, running_lanes, upstream
from tests.services.users import variables_as

PAGE = (PROJECT / "docs" / "how-to" / "dead-letters.md").read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"<!-- snippet: ([a-z-]+) -->\n```sh\n(.*?)\n```", PAGE, re.DOTALL))
ADA = 1
"""The home partition of ada among four, as the page has it."""


def environment(settings: Settings) -> dict[str, str]:
    """Give the variables of a command on the test's own topics."""
    return as_client(settings)


async def run_snippet(name: str, variables: Mapping[str, str]) -> Ended:
    """Run lines of the page."""
    given = variables_as(variables, "operator")
    process = await asyncio.create_subprocess_exec(
        "env",
        *(f"{name}={value}" for name, value in given.items()),
        "sh",
        "-euc",
        SNIPPETS[name],
        cwd=PROJECT,
        stdout=PIPE,
        stderr=PIPE,
    )
    return await ended(process)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_record_is_seen_mended_and_put_back_once(settings: Settings) -> None:
    variables = environment(settings)
    where = f"{settings.namespace}.requests-{ADA}-0"
    async with running_lanes(settings), upstream(settings) as program:
        none = await run(variables, "dead-letters", "list")
        await program.publish(
            {"user_id": "ada"},
            key=b"\xff\x00",
            partition=ADA,
            headers=[("authorization", b"Bearer s3cret"), ("ce_id", b"of the upstream")],
        )
        await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
        looked = await run_snippet("look", variables)
        mended = await run_snippet("mend", variables)
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
        again = await run_snippet("mend", variables)
    assert (none.code, none.out, none.err) == (0, "", "there are no such dead letters\n")
    assert looked.code == 0, looked.err
    assert f"requests-{ADA}-0" in looked.out
    assert "wrong_shape: not an AgentRequest: input: Field required" in looked.out
    assert r"\xff" in looked.out
    assert re.search(r"^header ce_id +of the upstream$", looked.out, re.MULTILINE)
    assert re.search(r"^dropped +1 header: authorization$", looked.out, re.MULTILINE)
    assert f"{where} was put back without 1 header: authorization" in mended.err
    assert (mended.code, mended.out) == (
        0,
        f"{where} was put back as {settings.namespace}.requests-{ADA}-1\n",
    ), mended.err
    assert (result.request_id, result.output) == (where, "Name three planets.")
    assert again.code == 0, again.err
    assert "nothing was done" in again.out
    assert f"its request {where} is completed" in again.out
    listed, other = await asyncio.gather(
        run(variables, "dead-letters", "list", "--json", "--code", "wrong_shape"),
        run(variables, "dead-letters", "list", "--json", "--code", "not_json"),
    )
    (one,) = [json.loads(line) for line in listed.out.splitlines()]
    assert (one["source"], one["state"], one["status"]) == (where, "ended", "completed")
    assert (one["headers_dropped"], one["headers_dropped_count"]) == (["authorization"], 1)
    shown = await run(variables, "dead-letters", "show", one["dead_letter"], "--json")
    body = json.loads(shown.out)
    assert body["headers"] == [["ce_id", base64.b64encode(b"of the upstream").decode()]]
    told = (looked, mended, again, listed, shown)
    assert not any("s3cret" in one.out + one.err for one in told)
    assert base64.b64decode(body["value"]) == b'{"user_id": "ada"}'
    assert base64.b64decode(body["key"]) == b"\xff\x00"
    assert body["source"] == where
    assert (other.code, other.out) == (0, "")


async def test_tail_shows_a_record_that_cannot_be_read_in_its_place(settings: Settings) -> None:
    await ensure_topics(settings, catalogue())
    asked = {"user_id": "ada", "input": "x"}
    async with upstream(settings) as program:
        for value in (asked, b"junk", asked):
            await program.publish(value, key=b"ada", partition=ADA)
    command = ("tail", "requests", "--from", f"{ADA}:0")
    variables = environment(settings)
    for as_json in (True, False):
        async with millstream(variables, *command, *(("--json",) if as_json else ())) as tail:
            assert tail.stdout is not None
            lines = [(await tail.stdout.readline()).decode() for _ in range(3)]
            told = await interrupt(tail)
        assert (told.code, told.err) == (130, "")
        if as_json:
            records = [json.loads(line) for line in lines]
            assert [one["offset"] for one in records] == [0, 1, 2]
            assert records[1]["unreadable"]["code"] == "not_json"
            assert [one for one in records if "event" in one] == [records[0], records[2]]
        else:
            assert "unreadable: the value is not JSON" in lines[1]


async def test_list_says_that_a_record_of_the_dead_letters_cannot_be_read(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    where = TopicPartition(settings.topic(DEAD_LETTERS.name), ADA)
    async with started(idempotent_producer(settings)) as producer:
        await producer.send_and_wait(where.topic, b"junk", partition=ADA)
    told = await run(environment(settings), "dead-letters", "list")
    assert (told.code, told.out) == (0, "")
    assert f"{where.topic}-{ADA}-0 cannot be read, so it is not listed: not_json" in told.err


def letters(settings: Settings, values: Mapping[int, bytes | None], code: str) -> list[DeadLetter]:
    """Give dead letters of ada's records, by their offsets, as a worker of before wrote them."""
    topic = settings.topic(REQUESTS.name)
    return [
        making.dead_letter(
            reason=Reason(code=code, message="why"),
            source=Address(topic=topic, partition=ADA, offset=offset),
            value=None if value is None else base64.b64encode(value).decode(),
        )
        for offset, value in values.items()
    ]


async def test_of_a_kind_all_that_can_be_read_now_are_put_back_and_the_rest_is_told(
    settings: Settings,
) -> None:
    variables = environment(settings)
    await ensure_topics(settings, catalogue())
    good = b'{"user_id": "ada", "input": "x"}'
    newer = b'{"user_id": "ada", "input": "x", "schema_version": 99}'
    async with KafkaBus(settings) as bus:
        found = letters(settings, {0: good, 1: good, 2: newer}, "newer_schema")
        await bus.publish_batch(found)
    command = ("dead-letters", "redrive", "--all", "--code", "newer_schema", "--json")
    told = await run(variables, *command)
    again = await run(variables, *command)
    async with running_lanes(settings):
        results = await read_topic(settings, RESULTS, AgentResult, count=2)
    listed = await run(variables, "dead-letters", "list", "--json")
    assert told.code == 1
    assert [json.loads(line)["first"] for line in told.out.splitlines()] == [True, True]
    left = f"{found[2].source} cannot be put back: it would be a dead letter again, newer_schema"
    assert left in told.err
    assert told.err.endswith("2 put back, 1 could not be: see above\n")
    assert (again.code, again.out) == (1, "")
    assert again.err.endswith("0 put back, 1 could not be: see above\n")
    assert {one.request_id for one in results} == {str(one.source) for one in found[:2]}
    states = [json.loads(line)["state"] for line in listed.out.splitlines()]
    assert states == ["ended", "ended", "dead"]


async def test_one_whose_bytes_are_gone_or_are_too_many_still_keeps_no_other_from_being_put_back(
    settings: Settings,
) -> None:
    variables = environment(settings)
    await ensure_topics(settings, catalogue())
    large = b'{"user_id": "ada", "input": "' + b"x" * (INPUT_BYTES_MAX + 5_000) + b'"}'
    good = b'{"user_id": "ada", "input": "x"}'
    values = {0: good, 1: large, 1_000_000: None}
    kept, too_large, gone = letters(settings, values, "record_too_large")
    async with KafkaBus(settings) as bus:
        await bus.publish_batch([gone, too_large, kept])
    command = ("dead-letters", "redrive", "--all", "--code", "record_too_large")
    told = await run(variables, *command)
    assert told.code == 1
    assert told.out.startswith(f"{kept.source} was put back as ")
    assert len(told.out.splitlines()) == 1
    assert f"{gone.source} cannot be put back: its bytes were too many to be kept" in told.err
    again = "cannot be put back: it would be a dead letter again, record_too_large"
    assert f"{too_large.source} {again}" in told.err
    assert told.err.endswith("1 put back, 2 could not be: see above\n")


async def test_a_lost_batch_is_found_by_each_of_its_records_and_never_put_back(
    settings: Settings,
) -> None:
    variables = environment(settings)
    await ensure_topics(settings, catalogue())
    (single,) = letters(settings, {99: None}, "batch_too_large")
    batch = single.model_copy(update={"first_offset": 0})
    async with KafkaBus(settings) as bus:
        await bus.publish(batch)
    within = f"requests-{ADA}-40"
    shown = await run(variables, "dead-letters", "show", within)
    one = await run(variables, "dead-letters", "redrive", within, "--value", "README.md")
    everything = await run(
        variables, "dead-letters", "redrive", "--all", "--code", "batch_too_large"
    )
    assert re.search(rf"^record +{batch.source}$", shown.out, re.MULTILINE)
    assert "100, offsets 0 to 99: send them again, in smaller batches" in shown.out
    assert (one.code, one.out) == (1, "")
    assert f"{batch.source} stands for a batch of 100 records (offsets 0 to 99)" in one.err
    assert (everything.code, everything.out) == (1, "")
    assert f"{batch.source} is a batch of 100 records, offsets 0 to 99: left" in everything.err
    assert everything.err.count("send them again, in smaller batches") == 1
    assert "give a value" not in everything.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", "requests-0-7"), 1, "requests-0-7 is no dead letter"),
        (("redrive", "requests-0-7"), 1, "requests-0-7 is no dead letter"),
        (("show", "requests"), 2, "TOPIC-PARTITION-OFFSET"),
        (("redrive",), 2, "--all"),
        (("redrive", "--all"), 2, "--code"),
        (("redrive", "requests-0-7", "--code", "not_json"), 2, "--all"),
        (("redrive", "--all", "--code", "newer_schema"), 0, "there are no such dead letters"),
        (("redrive", "--all", "--code", "newer"), 2, "no record is dead for 'newer'"),
        (("redrive", "--all", "--code", "not_json", "--value", "/dev/null"), 2, "name its ADDRESS"),
    ],
    ids=[
        "show",
        "redrive",
        "no-address",
        "nothing-named",
        "no-kind",
        "one-of-a-kind",
        "none",
        "no-such-kind",
        "one-value",
    ],
)
async def test_what_cannot_be_done_is_told(
    settings: Settings, arguments: tuple[str, ...], code: int, words: str
) -> None:
    variables = environment(settings)
    await run(variables, "topics", "--create")
    told = await run(variables, "dead-letters", *arguments)
    assert (told.code, told.out) == (code, "")
    assert words in " ".join(told.err.replace("│", "").split())
