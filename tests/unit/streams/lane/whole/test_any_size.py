"""P7 for records of any size: of values, headers and names, by any codec, on any topic of input."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka.errors import MessageSizeTooLargeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.schemas.control.migrations import RunMigrationAnswered
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import CommandObeyed
from millstream.schemas.sessions.states import SessionAnswered
from millstream.schemas.topics import OBEYED, RESULTS, RUN_MIGRATION_ANSWERS, SESSION_ANSWERS
from millstream.streams.wire.sizes import HEADERS_MAX
from tests.harness.beside import COMMANDS, Beside, beside, home
from tests.harness.memory_lanes import MemoryLanes
from tests.support import eventually

pytestmark = pytest.mark.promise("P7")

# Around every bound: of names, of what is read, of what brokers take, of what a letter keeps.
SIZES = st.one_of(
    st.integers(0, 2_000),
    st.integers(940_000, 960_000),
    st.integers(995_000, 1_005_000),
    st.integers(1_040_000, 1_050_000),
    st.integers(1_390_000, 1_410_000),
    st.integers(1_990_000, 5_000_000),
)
FILLS = st.sampled_from(["x", "\x01", "\u0344", "\ufb2c", "\U0001f600", '"'])
HEADERS = st.sampled_from(
    [
        "ce_large",
        "authorization",
        "millstream-origin",
        "millstream-redriven",
        "tracestate",
        "\u00e9",
    ]
)


@dataclass(frozen=True)
class Odd:
    """A record: where an odd text stands in it, how large that is, and how it is sent."""

    kind: str
    part: str
    size: int
    fill: str
    header: str
    codec: int
    elsewhere: bool

    def record(self, number: int) -> tuple[Any, bytes, tuple[tuple[str, bytes], ...]]:
        spec, asked = COMMANDS[self.kind]
        value = {**asked, "user_id": "ada"}
        for name in ("request_id", "command_id"):
            if name in value:
                value[name] = f"r{number}"
        headers: tuple[tuple[str, bytes], ...] = ()
        text = self.fill * (self.size // len(self.fill.encode()))
        match self.part:
            case "unknown field":
                value["pad"] = text
            case "metadata":
                value["metadata"] = {text: "x"}
            case "input":
                value["input"] = text
            case "header":
                headers = ((self.header, text.encode()),)
            case "many headers":
                headers = ((self.header, b""),) * (HEADERS_MAX - 5 + self.size % 20)
            case "header's name":
                headers = ((text, b"x"),)
            case "no json":
                return spec, text.encode(), headers
            case field:
                value[field] = text
        return spec, json.dumps(value, ensure_ascii=self.size % 2 == 0).encode(), headers


ODD = st.builds(
    Odd,
    kind=st.sampled_from(list(COMMANDS)),
    part=st.sampled_from(
        [
            "unknown field",
            "metadata",
            "input",
            "header",
            "header's name",
            "many headers",
            "no json",
            "user_id",
            "session_id",
            "request_id",
        ]
    ),
    size=SIZES,
    fill=FILLS,
    header=HEADERS,
    codec=st.integers(0, 4),
    elsewhere=st.booleans(),
)


def outcomes_of(lanes: Beside) -> int:
    """Count what was said of odd records: letters, results, and what became of commands."""
    mine = sum(not one.request_id.startswith("n") for one in lanes.all_of(RESULTS, AgentResult))
    told = (
        (OBEYED, CommandObeyed),
        (SESSION_ANSWERS, SessionAnswered),
        (RUN_MIGRATION_ANSWERS, RunMigrationAnswered),
    )
    return mine + lanes.letters_now + sum(len(lanes.all_of(*one)) for one in told)


async def served(odds: list[Odd]) -> None:
    world = MemoryLanes()
    async with beside(world) as lanes:
        count = 0
        for number, odd in enumerate(odds):
            spec, value, headers = odd.record(number)
            partition = (home(world) + odd.elsewhere) % world.settings.partitions
            try:
                await lanes.put(spec, value, partition=partition, headers=headers, codec=odd.codec)
            except MessageSizeTooLargeError:
                continue  # the broker took it not
            count += 1
        await lanes.neighbours_are_served()
        # A cancel that comes before its request has a mark and a result.
        await eventually(lambda: outcomes_of(lanes) >= count or lanes.lost, timeout_s=10)
        assert lanes.lost == 0


@given(st.lists(ODD, min_size=1, max_size=4))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_record_of_any_size_has_an_outcome_and_its_neighbours_are_served(
    odds: list[Odd],
) -> None:
    asyncio.run(served(odds))
