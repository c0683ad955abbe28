"""Whatever the size of a record, its lane lives on and the records beside it are served."""

from __future__ import annotations

import hashlib

import pytest

from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentToken
from millstream.schemas.topics import DEAD_LETTERS, REQUESTS, TOKENS
from millstream.streams.wire.sizes import HEADERS_MAX
from tests.harness.beside import (
    ASKED,
    BATCH_BYTES_MAX,
    COMMANDS,
    GZIP,
    beside,
    home,
    padded,
)
from tests.harness.memory_lanes import MemoryLanes, read_whole

pytestmark = pytest.mark.promise("P7")


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("by", ["value", "kept-header", "dropped-header"])
@pytest.mark.parametrize("at_home", [True, False], ids=["at-home", "elsewhere"])
async def test_a_record_as_large_as_brokers_take_is_buried_and_the_next_ones_are_served(
    world: MemoryLanes, kind: str, by: str, *, at_home: bool
) -> None:
    spec, value = COMMANDS[kind]
    partition = home(world) if at_home else (home(world) + 1) % world.settings.partitions
    large = BATCH_BYTES_MAX - 500
    async with beside(world) as lanes:
        if by == "value":
            offset = await lanes.put(spec, padded(value, large), partition=partition)
        else:
            name = "ce_large" if by == "kept-header" else "authorization"
            header = (name, b"x" * large)
            offset = await lanes.put(spec, value, partition=partition, headers=(header,))
        await lanes.neighbours_are_served()
        (letter,) = await lanes.letters()
    assert (letter.source.offset, letter.reason.code) == (offset, "record_too_large")
    assert letter.value is not None


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("megabytes", [2, 20])
async def test_a_record_that_was_small_only_compressed_is_buried_without_its_bytes(
    world: MemoryLanes, kind: str, megabytes: int
) -> None:
    spec, value = COMMANDS[kind]
    async with beside(world, codec=GZIP) as lanes:
        large = padded(value, megabytes * 1_000_000)
        offset = await lanes.put(spec, large, partition=home(world))
        await lanes.neighbours_are_served()
        (letter,) = await lanes.letters()
    assert (letter.source.offset, letter.reason.code) == (offset, "record_too_large")
    assert letter.value is None
    assert str(letter.source) in letter.reason.message


@pytest.mark.parametrize(
    "name", ["ce_large", "millstream-origin", "authorization", "x" * 1_600_000]
)
async def test_a_value_that_cannot_be_read_is_buried_with_whatever_header(
    world: MemoryLanes, name: str
) -> None:
    async with beside(world, codec=GZIP) as lanes:
        header = (name, b"x" * 1_600_000)
        offset = await lanes.put(REQUESTS, b"no json", partition=home(world), headers=(header,))
        await lanes.neighbours_are_served()
        (letter,) = await lanes.letters()
    assert letter.source.offset == offset


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("at_home", [True, False], ids=["at-home", "elsewhere"])
async def test_a_record_of_a_header_too_many_is_buried_wherever_it_stands(
    world: MemoryLanes, kind: str, *, at_home: bool
) -> None:
    spec, value = COMMANDS[kind]
    partition = home(world) if at_home else (home(world) + 1) % world.settings.partitions
    async with beside(world) as lanes:
        headers = (("ce_many", b""),) * (HEADERS_MAX + 1)
        offset = await lanes.put(spec, value, partition=partition, headers=headers)
        await lanes.neighbours_are_served()
        (letter,) = await lanes.letters()
    assert (letter.source.offset, letter.reason.code) == (offset, "record_too_large")
    assert len(letter.headers) == HEADERS_MAX + 1


async def test_a_record_of_as_many_headers_as_are_read_is_moved_and_served(
    world: MemoryLanes,
) -> None:
    elsewhere = (home(world) + 1) % world.settings.partitions
    async with beside(world) as lanes:
        headers = (("ce_many", b""),) * HEADERS_MAX
        await lanes.put(REQUESTS, ASKED, partition=elsewhere, headers=headers)
        await lanes.neighbours_are_served()
        results = await lanes.results("r1")
        assert results["r1"].output == "served"
        assert lanes.letters_now == 0


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("request", "user_id"),
        ("request", "request_id"),
        ("request", "session_id"),
        ("request", "template"),
        ("request", "model"),
        ("control", "user_id"),
        ("control", "request_id"),
        ("session", "user_id"),
        ("session", "session_id"),
        ("session", "command_id"),
        ("session", "by"),
        ("migration", "user_id"),
        ("migration", "request_id"),
    ],
)
async def test_a_name_that_becomes_too_long_as_it_is_normalised_ends_no_lane(
    world: MemoryLanes, kind: str, field: str
) -> None:
    spec, value = COMMANDS[kind]
    async with beside(world) as lanes:
        odd = {**value, field: "\u0344" * 200}
        offset = await lanes.put(spec, odd, partition=home(world))
        await lanes.neighbours_are_served()
        (letter,) = await lanes.letters()
    assert (letter.source.offset, letter.reason.code) == (offset, "wrong_shape")


async def test_a_record_that_its_topic_takes_no_more_once_it_is_moved_is_buried(
    world: MemoryLanes,
) -> None:
    """An operator has set the topic's limit so low that the header of the move is too much."""
    elsewhere = (home(world) + 1) % world.settings.partitions
    async with beside(world, requests=10_000) as lanes:
        offset = await lanes.put(REQUESTS, padded(ASKED, 9_900), partition=elsewhere)
        await lanes.put(REQUESTS, {**ASKED, "request_id": "r2"}, partition=elsewhere)
        await lanes.neighbours_are_served()
        (letter,) = await lanes.letters()
        results = await lanes.results("r2")
    assert (letter.source.offset, letter.reason.code) == (offset, "record_too_large")
    assert results["r2"].output == "served"


async def test_a_dead_letter_that_its_topic_does_not_take_is_written_without_the_bytes(
    world: MemoryLanes,
) -> None:
    async with beside(world, dead_letters=BATCH_BYTES_MAX) as lanes:
        offset = await lanes.put(REQUESTS, b"x" * 900_000, partition=home(world))
        await lanes.neighbours_are_served()
        (letter,) = await lanes.letters()
    assert (letter.source.offset, letter.reason.code, letter.value) == (offset, "not_json", None)
    assert str(letter.source) in letter.reason.message


@pytest.mark.promise("P3")
@pytest.mark.parametrize(
    "text",
    ["\x01" * 100_000, '\x01\U0001f600\u00e9"\\' * 20_000, "x" * 250_000, "\U0001f600" * 60_000],
    ids=["control", "mixed", "plain", "astral"],
)
async def test_an_answer_of_characters_that_take_much_room_leaves_in_pieces(
    world: MemoryLanes, text: str
) -> None:
    async with beside(world) as lanes:
        value = {**ASKED, "input": text}
        await lanes.put(REQUESTS, value, partition=home(world))
        await lanes.neighbours_are_served()
        result = (await lanes.results("r1"))["r1"]
    tokens = [one for one in lanes.all_of(TOKENS, AgentToken) if one.request_id == "r1"]
    assert [one.seq for one in tokens] == list(range(len(tokens)))
    told = "".join(one.text for one in tokens)
    assert (result.status, result.last_seq) == ("completed", len(tokens) - 1)
    assert told == result.output
    assert result.text_sha256 == hashlib.sha256(told.encode()).hexdigest()


@pytest.mark.promise("P1")
async def test_a_result_that_no_record_holds_is_a_failed_one_without_what_was_copied(
    world: MemoryLanes,
) -> None:
    async with beside(world) as lanes:
        value = {
            **ASKED,
            "input": "say: " + "{input}" * 150,
            "metadata": {"x" * 900_000: "y"},
        }
        await lanes.put(REQUESTS, value, partition=home(world))
        await lanes.neighbours_are_served()
        result = (await lanes.results("r1"))["r1"]
    assert (result.status, result.reason and result.reason.code) == ("failed", "commit_refused")
    assert (result.output, dict(result.metadata)) == (None, {})


@pytest.mark.promise("P3")
async def test_tokens_of_an_answer_that_is_too_large_in_json_are_written_in_pieces(
    world: MemoryLanes,
) -> None:
    """200,000 control characters are 1.2 MB of JSON: more than a token record, and a result."""
    async with beside(world) as lanes:
        text = "say: " + "\x01" * 120_000 + "{input}"
        value = {**ASKED, "input": text, "metadata": {"kept": "yes"}}
        await lanes.put(REQUESTS, value, partition=home(world))
        await lanes.neighbours_are_served()
        result = (await lanes.results("r1"))["r1"]
    tokens = [one for one in lanes.all_of(TOKENS, AgentToken) if one.request_id == "r1"]
    assert [one.seq for one in tokens] == list(range(len(tokens)))
    assert len("".join(one.text for one in tokens)) > 240_000
    assert (result.status, result.reason and result.reason.code) == ("failed", "commit_refused")
    assert (result.output, dict(result.metadata)) == (None, {"kept": "yes"})


async def test_what_tokens_cannot_be_written_ends_its_run_and_no_other(world: MemoryLanes) -> None:
    """An operator has set the topic's limit far below what the catalogue says."""
    async with beside(world, tokens=20_000) as lanes:
        value = {**ASKED, "input": "x" * 30_000}
        await lanes.put(REQUESTS, value, partition=home(world))
        await lanes.put(REQUESTS, {**ASKED, "request_id": "r2"}, partition=home(world))
        await lanes.neighbours_are_served()
        results = await lanes.results("r1", "r2")
    assert results["r1"].status == "failed"
    assert results["r2"].output == "served"


async def test_large_requests_are_handed_from_stage_to_stage(world: MemoryLanes) -> None:
    world = world.changed(chain_cuts=("rate_limit", "executor"))
    async with beside(world) as lanes:
        largest = {**ASKED, "metadata": {"x" * 949_000: ""}}
        await lanes.put(REQUESTS, largest, partition=home(world))
        await lanes.neighbours_are_served()
        results = await lanes.results("r1")
    assert results["r1"].output == "served"
    assert await read_whole(world, DEAD_LETTERS, DeadLetter) == []
