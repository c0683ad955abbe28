"""A request id stands for one request: asked again it has one result, with another body none."""

from __future__ import annotations

import base64
import json

import pytest

from millstream.schemas.events import AgentResult, DeadLetter
from millstream.schemas.topics import DEAD_LETTERS, RESULTS
from millstream.streams.settings import Settings
from tests.harness.lanes import read_topic, read_whole, running_lanes, upstream

pytestmark = pytest.mark.rule(11)

ASKED = {"user_id": "ada", "request_id": "r1", "input": "one"}
OTHERWISE = {**ASKED, "input": "two"}
NEXT = {"user_id": "ada", "request_id": "r2", "input": "next"}


@pytest.mark.parametrize("cuts", [("executor",)], ids=["cut"])
async def test_the_same_id_with_another_body_is_a_dead_letter_also_for_a_new_owner(
    settings: Settings, cuts: tuple[str, ...]
) -> None:
    settings = settings.model_copy(update={"chain_cuts": cuts})
    async with upstream(settings) as program:
        async with running_lanes(settings):
            await program.publish(ASKED, key=b"ada")
            await read_topic(settings, RESULTS, AgentResult, count=1)
            await program.publish(OTHERWISE, key=b"ada")
            (letter,) = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
        async with running_lanes(settings):
            await program.publish({**OTHERWISE, "input": "three"}, key=b"ada")
            await program.publish({**ASKED, "metadata": {"try": "2"}}, key=b"ada")
            await program.publish(NEXT, key=b"ada")
            results = await read_topic(settings, RESULTS, AgentResult, count=2)
    letters = await read_whole(settings, DEAD_LETTERS, DeadLetter)
    assert [one.reason.code for one in letters] == ["request_id_reused"] * 2
    assert letter.value == base64.b64encode(json.dumps(OTHERWISE).encode()).decode()
    assert [(one.request_id, one.output) for one in results] == [("r1", "one"), ("r2", "next")]
