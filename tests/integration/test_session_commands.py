"""Sessions on real Kafka: what a command decides holds for the next owner too."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.schemas.events import AgentResult
from millstream.schemas.sessions.states import SessionAnswered, SessionChanged
from millstream.schemas.topics import RESULTS, SESSION_ANSWERS, SESSION_COMMANDS, SESSION_EVENTS
from millstream.streams.settings import Settings
from tests.harness.lanes import Upstream, read_topic, read_whole, running_lanes, upstream


async def give(settings: Settings, program: Upstream, operation: str, **more: Any) -> None:
    value = {"user_id": "ada", "session_id": "s", "operation": operation, **more}
    # Under another key than the user's: it is put right.
    topic = settings.topic(SESSION_COMMANDS.name)
    await program.publish(value, key=b"somebody", topic=topic)


async def ask(program: Upstream, request_id: str) -> None:
    value = {"user_id": "ada", "session_id": "s", "request_id": request_id, "input": "say: x"}
    await program.publish(value, key=b"ada")


@pytest.mark.promise("P1")
async def test_what_a_command_decides_holds_for_the_next_owner(settings: Settings) -> None:
    async with upstream(settings) as program:
        async with running_lanes(settings):
            await give(settings, program, "create", command_id="c1", ttl={"idle_s": 1})
            await read_topic(settings, SESSION_ANSWERS, SessionAnswered, count=1)
            await ask(program, "r1")
            await read_topic(settings, RESULTS, AgentResult, count=1)
            await read_topic(settings, SESSION_EVENTS, SessionChanged, count=2)
        async with running_lanes(settings):
            await ask(program, "r2")
            await read_topic(settings, RESULTS, AgentResult, count=2)
            # Sent again, it is answered as before.
            await give(settings, program, "create", command_id="c1")
            await give(settings, program, "reopen", command_id="c2", ttl=None)
            await read_topic(settings, SESSION_ANSWERS, SessionAnswered, count=4)
            await ask(program, "r3")
            results = await read_topic(settings, RESULTS, AgentResult, count=3)
    told = {one.request_id: one.reason.code if one.reason else one.status for one in results}
    assert told == {"r1": "completed", "r2": "session_expired", "r3": "completed"}
    answers = await read_whole(settings, SESSION_ANSWERS, SessionAnswered)
    asked = [one for one in answers if one.operation != "expire"]
    assert [(one.command_id, one.refused) for one in asked] == [
        ("c1", None),
        ("c1", None),
        ("c2", None),
    ]
    events = await read_whole(settings, SESSION_EVENTS, SessionChanged)
    assert [one.change for one in events] == ["created", "expired", "reopened"]
