"""A session's state through one run: a round trip, bounds, and data that is not to be trusted."""

from __future__ import annotations

import base64
from pathlib import Path

import ormsgpack
import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.base import CheckpointTuple

from millstream.agents.sessions.checkpointer import CHECKPOINT_CHARS_MAX, RunCheckpointer
from millstream.agents.templates.memory import LastTurns
from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from millstream.schemas.errors import Terminal
from millstream.schemas.events import CheckpointSaved
from millstream.schemas.runs.errors import CheckpointUnreadable
from tests.harness.agent_runs import Runs, resolved

CHAT = BUILT_IN_TEMPLATES[0]
CONFIG = {"configurable": {"thread_id": "s1", "checkpoint_ns": ""}}


async def saved_after(*inputs: str) -> CheckpointSaved:
    runs = Runs()
    for text in inputs:
        await runs.run(text)
    assert runs.saved is not None
    return runs.saved


async def newest(saved: CheckpointSaved) -> CheckpointTuple:
    found = await RunCheckpointer(saved, CHAT).aget_tuple(CONFIG)  # type: ignore[arg-type]
    assert found is not None
    return found


async def messages_in(saved: CheckpointSaved) -> list[AnyMessage]:
    messages: list[AnyMessage] = (await newest(saved)).checkpoint["channel_values"]["messages"]
    return messages


def with_state(saved: CheckpointSaved, packed: bytes) -> CheckpointSaved:
    return saved.model_copy(update={"data": base64.b64encode(packed).decode()})


async def test_a_new_session_has_no_checkpoint() -> None:
    assert await RunCheckpointer(None, CHAT).aget_tuple(CONFIG) is None  # type: ignore[arg-type]


async def test_a_sealed_state_opens_to_the_same_messages() -> None:
    messages = await messages_in(await saved_after("hello", "again"))
    assert [(type(message), message.text) for message in messages] == [
        (HumanMessage, "hello"),
        (AIMessage, "hello"),
        (HumanMessage, "again"),
        (AIMessage, "again"),
    ]


async def test_sealing_what_was_opened_gives_the_same_state_and_the_next_turn() -> None:
    saved = await saved_after("hello")
    again = RunCheckpointer(saved, CHAT).seal(resolved("x", request_id="r9"), at_ms=5)
    assert (again.turn, again.parent_id, again.at_ms) == (2, saved.checkpoint_id, 5)
    assert await newest(again) == await newest(saved)


async def test_pending_writes_of_an_interrupted_run_are_kept() -> None:
    saved = await saved_after("hello")
    checkpointer = RunCheckpointer(saved, CHAT)
    await checkpointer.aput_writes(
        CONFIG,  # type: ignore[arg-type]
        [("messages", "half")],
        task_id="t1",
    )
    sealed = checkpointer.seal(resolved("x"), at_ms=1)
    assert (await newest(sealed)).pending_writes == [("t1", "messages", "half")]


@pytest.mark.parametrize(
    "data",
    ["", "AAAA", "no base64 at all", base64.b64encode(b"\xc1").decode(), "gA==", "kA=="],
)
async def test_data_that_is_no_checkpoint_is_unreadable(data: str) -> None:
    saved = (await saved_after("hello")).model_copy(update={"data": data})
    with pytest.raises(CheckpointUnreadable, match="session 's1'"):
        RunCheckpointer(saved, CHAT)


async def test_no_class_that_data_names_is_imported_or_called(tmp_path: Path) -> None:
    saved = await saved_after("hello")
    made = tmp_path / "made"
    call = ormsgpack.Ext(0, ormsgpack.packb(("os", "mkdir", str(made))))
    evil = ormsgpack.packb(
        {
            "checkpoint": {"id": "c", "channel_values": {"messages": [call]}},
            "metadata": {},
            "pending_writes": [],
        }
    )
    with pytest.raises(CheckpointUnreadable, match="not allowed"):
        RunCheckpointer(with_state(saved, evil), CHAT)
    assert not made.exists()


async def test_a_pickle_is_never_opened() -> None:
    saved = await saved_after("hello")
    with pytest.raises(CheckpointUnreadable):
        RunCheckpointer(with_state(saved, b"\x80\x04cos\nsystem\n(S'true'\ntR."), CHAT)


async def test_a_state_that_no_record_can_hold_keeps_what_fits_of_its_newest_turn() -> None:
    outcome = await Runs().run("say: ok " + "x" * 10)
    assert outcome.checkpoint is not None
    checkpointer = RunCheckpointer(outcome.checkpoint, CHAT)
    found = await newest(outcome.checkpoint)
    found.checkpoint["channel_values"]["messages"] = [
        HumanMessage("earlier"),
        *(AIMessage("y" * 4_000) for _ in range(300)),
        HumanMessage("x" * CHECKPOINT_CHARS_MAX),
        *(AIMessage("z" * 4_000) for _ in range(300)),
        AIMessage("done"),
    ]
    await checkpointer.aput(CONFIG, found.checkpoint, found.metadata, {})  # type: ignore[arg-type]
    saved = checkpointer.seal(resolved("x"), at_ms=1)
    assert len(saved.data) <= CHECKPOINT_CHARS_MAX
    remembers_all = CHAT.model_copy(update={"memory": LastTurns(tokens_max=100_000)})
    asked, answered = RunCheckpointer(saved, remembers_all).messages
    assert asked.text.startswith("xxx")
    assert "900000 bytes" in asked.text
    assert answered.text == "done"


async def test_a_state_of_other_channels_that_no_record_can_hold_is_refused_with_its_size() -> None:
    outcome = await Runs().run("say: ok")
    assert outcome.checkpoint is not None
    checkpointer = RunCheckpointer(outcome.checkpoint, CHAT)
    found = await newest(outcome.checkpoint)
    found.checkpoint["channel_values"]["notes"] = "x" * CHECKPOINT_CHARS_MAX
    await checkpointer.aput(CONFIG, found.checkpoint, found.metadata, {})  # type: ignore[arg-type]
    with pytest.raises(Terminal, match="more than 900000"):
        checkpointer.seal(resolved("x"), at_ms=1)


async def test_a_strict_langgraph_gets_no_copy_whose_state_would_be_lost() -> None:
    checkpointer = RunCheckpointer(None, CHAT)
    assert checkpointer.with_allowlist([("os", "system")]) is checkpointer
