"""Many who ask for anything of few sessions at once, while lanes follow each other."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict

import pytest

from millstream.schemas.events import AgentResult, CheckpointSaved, SessionUpdated
from millstream.schemas.sessions.states import SessionAnswered, SessionState
from millstream.schemas.topics import (
    CHECKPOINTS,
    RESULTS,
    SESSION_ANSWERS,
    SESSION_STATES,
    SESSIONS,
)
from millstream.streams.wire.codec import decode
from tests.harness.lane_sessions import Sessions, sessions
from tests.harness.memory_lanes import MemoryLanes, read_whole
from tests.harness.session_lines import breaks

pytestmark = [pytest.mark.promise("P1"), pytest.mark.promise("P6")]

LANES, CALLERS, STEPS = 3, 6, 6
OPERATIONS = (
    *("touch", "update", "close", "reopen", "reopen", "expire", "create", "delete"),
    *("name_checkpoint", "restore", "restore", "restore"),
)


class Storm:
    """What was given and asked, and who does so."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311  the same steps for the same seed
        self._numbers = itertools.count()
        self.commands: list[str] = []
        self.requests: list[str] = []

    async def call(self, mine: Sessions) -> None:
        """Be a caller, who seldom waits for an answer."""
        for _ in range(STEPS):
            session, number = f"s{self._chance.randrange(4)}", next(self._numbers)
            if self._chance.random() < 0.4:
                self.requests.append(f"q{number}")
                text = self._chance.choice(["say: x", "slow: 0.02; say: y"])
                await mine.ask(text, session_id=session, request_id=f"q{number}")
                continue
            operation = self._chance.choice(OPERATIONS)
            more: dict[str, object] = {}
            if operation in {"restore", "name_checkpoint"}:
                more = {"turn": self._chance.randint(1, 5)}
            if operation == "name_checkpoint":
                more["name"] = f"n{self._chance.randrange(9)}"
            self.commands.append(f"k{number}")
            await mine.give(operation, session, command_id=f"k{number}", **more)
            if self._chance.random() < 0.3:
                await mine.answered(f"k{number}")


@pytest.mark.parametrize("seed", [13, 14])
async def test_each_turn_goes_on_from_the_head_before_it(seed: int) -> None:
    world = MemoryLanes().changed(sessions_in_memory=1, snapshot_records=5, commit_timeout_s=1)
    storm = Storm(seed)
    for number in range(LANES):
        async with sessions(world) as mine:
            await asyncio.gather(*(storm.call(mine) for _ in range(CALLERS)))
            if number < LANES - 1:
                world.broker.lose_answer(is_applied=bool(number))
                continue
            for name in storm.commands:
                await mine.answered(name)
            for name in storm.requests:
                await mine.result(name)
    results = await read_whole(world, RESULTS, AgentResult)
    assert sorted(one.request_id for one in results) == sorted(storm.requests)
    written = [one for at in world.places(SESSIONS) for one in world.broker.records(at)]
    heads = [decode(one, SessionUpdated) for one in written if one.value is not None]
    saved = await read_whole(world, CHECKPOINTS, CheckpointSaved)
    assert list(breaks(heads, saved)) == []
    revisions = defaultdict(list)
    for state in await read_whole(world, SESSION_STATES, SessionState):
        revisions[state.session_id].append(state.revision)
    assert all(told == list(range(1, len(told) + 1)) for told in revisions.values())
    codes = defaultdict(set)
    for answer in await read_whole(world, SESSION_ANSWERS, SessionAnswered):
        codes[answer.command_id].add(answer.refused and answer.refused.code)
    assert {len(told) for told in codes.values()} == {1}
