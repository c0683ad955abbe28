"""A conversation as it is told to people: whole, in order, by plain values.

Others told it without the tools' results (BaseIntelligence/bounty-challenge#6317,
QwenLM/qwen-code#9573), or dropped what is not text (topcheer/ggcode#1086).
"""

from __future__ import annotations

import base64

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import StructuredTool, ToolException

from millstream.agents.sessions.conversation import (
    CalledTool,
    ConversationMessage,
    conversation_of,
)
from millstream.agents.sessions.opening import SERDE, opened_state
from millstream.schemas.events import CheckpointSaved
from millstream.schemas.runs.errors import CheckpointUnreadable
from tests import making
from tests.fakes.odd_models import calling
from tests.harness.agent_runs import Runs
from tests.harness.call_bench import DONE, bench


async def test_calls_and_results_are_told_between_question_and_answer() -> None:
    def find(order: int) -> str:
        if order == 2:
            message = "no order 2"
            raise ToolException(message)
        return f"order {order}"

    tool = StructuredTool.from_function(find, description="x", handle_tool_error=True)
    one = bench([calling(("find", {"order": 7}, "c1"), ("find", {"order": 2}, "c2")), DONE], tool)
    saved = (await one.run()).checkpoint
    assert saved is not None
    question, asked, *results, answer = conversation_of(saved)
    assert question.role == "user"
    assert asked.calls == (
        CalledTool("c1", "find", {"order": 7}),
        CalledTool("c2", "find", {"order": 2}),
    )
    assert [(one.role, one.tool, one.call_id) for one in results] == [
        ("tool", "find", "c1"),
        ("tool", "find", "c2"),
    ]
    assert results[0] == ConversationMessage("tool", "order 7", call_id="c1", tool="find")
    assert results[1].failed
    assert (answer.role, answer.text) == ("assistant", "done")


async def with_messages(*messages: object) -> CheckpointSaved:
    runs = Runs()
    await runs.run("hello")
    assert runs.saved is not None
    state = opened_state(runs.saved)
    state.checkpoint["channel_values"]["messages"] = [*messages]
    packed = SERDE.dumps_typed(
        {"checkpoint": state.checkpoint, "metadata": state.metadata, "pending_writes": []}
    )[1]
    return runs.saved.model_copy(update={"data": base64.b64encode(packed).decode()})


async def test_what_is_not_text_is_told_by_its_label_and_nothing_is_mended() -> None:
    image = {"type": "image", "mime_type": "image/png", "base64": "aGVsbG8="}
    saved = await with_messages(
        HumanMessage([{"type": "text", "text": "what is it?"}, image]),
        AIMessage(
            "",
            invalid_tool_calls=[
                {"name": "find", "args": "{half", "id": "c1", "error": None, "type": None}
            ],
        ),
        ToolMessage("nobody asked", tool_call_id="c9", name="other"),
        HumanMessage("the story so far?", additional_kwargs={"lc_source": "summarization"}),
        SystemMessage("be kind"),
    )
    asked, called, result, summary, system = conversation_of(saved)
    assert (asked.text, len(asked.media)) == ("what is it?", 1)
    assert "image/png" in asked.media[0]
    assert called.calls == (CalledTool("c1", "find", "{half"),)
    assert (result.tool, result.call_id) == ("other", "c9")
    assert summary.is_summary
    assert (system.role, system.text) == ("system", "be kind")


@pytest.mark.parametrize("data", ["", "no base64!", "aGVsbG8=", base64.b64encode(b"\x80").decode()])
def test_a_checkpoint_that_cannot_be_read_says_which(data: str) -> None:
    saved = making.checkpoint(session_id="s", checkpoint_id="c1", data=data)
    with pytest.raises(CheckpointUnreadable, match=r"checkpoint c1 of session 's'"):
        conversation_of(saved)
