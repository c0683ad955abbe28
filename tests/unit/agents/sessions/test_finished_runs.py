"""What a finished run leaves in its session: nothing that it holds can fail it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.tools import StructuredTool
from langgraph.types import Command, interrupt

from millstream.agents.sessions.checkpointer import RunCheckpointer
from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from tests.fakes.odd_models import calling
from tests.harness.call_bench import DONE, Refunds, bench


async def test_a_tools_ten_megabytes_are_cut_before_the_model_sees_them() -> None:
    def huge() -> str:
        return "ж" * 5_000_000

    tool = StructuredTool.from_function(huge, name="huge", description="x")
    one = bench([calling(("huge", {}, "c1")), DONE], tool, tool_result_bytes_max=1_000)
    assert (await one.run()).result.status == "completed"
    (told,) = one.model.results(1)
    assert str(told.content).startswith("жжж")
    assert "10000000 bytes" in str(told.content)
    assert len(str(told.content).encode()) < 1_100


def answered(content: str, call_id: str = "c1") -> ToolMessage:
    return ToolMessage(content, tool_call_id=call_id)


@pytest.mark.parametrize(
    "given",
    [
        Command(update={"messages": [answered("\ud83d" + "z" * 10_000_000)]}),
        [Command(update={"messages": [answered("\ud83d" + "z" * 10_000_000)]})],
        answered("\ud83d" + "z" * 10_000_000, "nosuch"),
    ],
    ids=["command", "list", "message"],
)
async def test_what_a_tool_says_by_a_message_of_its_own_is_bounded_and_answers_its_call(
    given: Any,
) -> None:
    # langchain-ai/deepagents#2500: what cut results lost commands, or passed them over.
    tool = StructuredTool.from_function(lambda: given, name="says", description="x")
    one = bench([calling(("says", {}, "c1")), DONE], tool, tool_result_bytes_max=1_000)
    assert (await one.run()).result.status == "completed"
    (told,) = one.model.results(1)
    assert told.tool_call_id == "c1"
    assert str(told.content).startswith("?zzz")
    assert len(str(told.content).encode()) < 1_100


async def test_a_graph_that_interrupts_ends_failed_and_is_not_remembered() -> None:
    def ask_human() -> str:
        return str(interrupt("ok?"))

    tool = StructuredTool.from_function(ask_human, name="ask_human", description="x")
    one = bench([calling(("ask_human", {}, "c1")), DONE], tool)
    outcome = await one.run()
    assert outcome.result.reason is not None
    assert (outcome.result.status, outcome.result.reason.code) == (
        "failed",
        "interrupt_unsupported",
    )
    assert outcome.checkpoint is None
    assert (await one.run()).result.status == "completed"
    assert [message.type for message in one.model.seen[1]] == ["human"]


class Odd:
    """Of a type that nobody has heard of."""


async def test_nothing_that_a_finished_run_holds_can_fail_it() -> None:
    def odd(order: str = "", **_: Any) -> tuple[str, Any]:
        return "half \ud83d" + order, {"kept": 1, "odd": Odd(), "big": 2**70}

    tool = StructuredTool.from_function(
        odd,
        name="odd",
        response_format="content_and_artifact",
        description="x",
        args_schema={"type": "object", "properties": {}},
    )
    says = [
        AIMessage(
            "",
            tool_calls=[{"name": "odd", "args": {"big": 10**20, "note": "\ud83d"}, "id": "c1"}],
            response_metadata={"odd": Odd()},
            additional_kwargs={"odd": {Odd()}},
        ),
        AIMessage("wave \ud83d\udc4b", response_metadata={"big": 10**20}),
    ]
    one = bench(says, tool)
    outcome = await one.run()
    assert (outcome.result.status, outcome.result.output) == ("completed", "wave 👋")
    assert outcome.checkpoint is not None
    opened = RunCheckpointer(outcome.checkpoint, BUILT_IN_TEMPLATES[0]).messages
    assert opened[-1].text == "wave 👋"
    assert isinstance(opened[1], AIMessage)
    assert opened[1].tool_calls[0]["args"] == {"big": str(10**20), "note": "?"}
    assert isinstance(opened[2], ToolMessage)
    assert opened[2].content == "half ?"
    assert opened[2].artifact == {"kept": 1, "big": str(2**70)}
    assert one.model.results(1)[0].content == "half ?"


IMAGE = {"type": "image", "base64": "A" * 3_000_000, "mime_type": "image/png"}


@pytest.mark.parametrize("template", ["chat_agent", "own"])
@pytest.mark.parametrize(
    "said",
    [
        AIMessage([{"type": "text", "text": "here"}, IMAGE]),
        AIMessage("here", additional_kwargs={"audio": "A" * 3_000_000, "kept": 1}),
        AIMessage("here", response_metadata={"logprobs": ["A" * 3_000_000], "kept": 1}),
    ],
    ids=["image", "audio", "logprobs"],
)
async def test_an_answer_that_no_record_can_hold_completes_without_what_is_too_large(
    said: AIMessage, template: str
) -> None:
    # pydantic/pydantic-ai#7110, julep-ai/julep#786: what was paid for and told failed in the end.
    one = bench([said, DONE], Refunds().tool())
    outcome = await one.runs.run("x", template=template)
    assert (outcome.result.status, outcome.result.output) == ("completed", "here")
    assert (await one.runs.run("x", template=template)).result.status == "completed"
    (again,) = (message for message in one.model.seen[1] if isinstance(message, AIMessage))
    assert again.text in {"here", "here[not kept: image]"}
    assert {**again.additional_kwargs, **again.response_metadata}.get("kept", 1) == 1


async def test_a_tools_artifact_that_no_record_can_hold_is_left_out_and_the_rest_stays() -> None:
    def drawn() -> tuple[Any, Any]:
        return [IMAGE], {"raw": b"x" * 10_000_000, "kept": 1}

    tool = StructuredTool.from_function(
        drawn, name="drawn", description="x", response_format="content_and_artifact"
    )
    one = bench([calling(("drawn", {}, "c1")), DONE, DONE], tool)
    assert (await one.run()).result.status == "completed"
    assert (await one.run()).result.status == "completed"
    (result,) = one.model.results(2)
    assert result.text == "[image/png, 2.2 MB]"
    assert result.artifact == {"kept": 1}


class OwnAnswer(AIMessage):
    """An answer of an integration's own class."""


class OwnResult(ToolMessage):
    """A tool's result of a class of its own."""


async def test_messages_of_an_integrations_own_class_do_not_close_their_session() -> None:
    # langchain-ai/langgraph#7066: such a state opens as plain data.
    tool = StructuredTool.from_function(
        lambda: OwnResult("5", tool_call_id="c1", name="counts"), name="counts", description="x"
    )
    one = bench([calling(("counts", {}, "c1")), OwnAnswer("it is 5"), DONE], tool)
    for template in ("own", "own", "chat_agent"):
        assert (await one.runs.run("x", template=template)).result.status == "completed"
    said = [type(one) for one in one.model.seen[-1] if isinstance(one, (AIMessage, ToolMessage))]
    assert said == [AIMessage, ToolMessage, AIMessage, AIMessage]
    assert [message.text for message in one.model.results(-1)] == ["5"]


async def test_halves_of_a_character_in_two_deltas_are_joined() -> None:
    chunks = [AIMessageChunk("wave \ud83d"), AIMessageChunk("\udc4b bye \ud83d")]
    one = bench([chunks], Refunds().tool(), streams=True)
    for template in ("own", "chat_agent"):
        outcome = await one.runs.run("x", template=template)
        assert outcome.result.output == "wave 👋 bye ?"
        one.runs.assert_text_is_the_tokens(outcome)
        assert outcome.checkpoint is not None
        opened = RunCheckpointer(outcome.checkpoint, BUILT_IN_TEMPLATES[0]).messages
        assert opened[-1].text == "wave 👋 bye ?"


@pytest.mark.parametrize("text", ["", "I would like to"])
async def test_an_agent_without_tools_leaves_no_call_in_its_session(text: str) -> None:
    one = bench([calling(("refund", {}, "c1"), text=text)], Refunds().tool())
    outcome = await one.runs.run("x")
    assert outcome.result.status == ("completed" if text else "failed")
    if text:
        assert outcome.checkpoint is not None
        opened = RunCheckpointer(outcome.checkpoint, BUILT_IN_TEMPLATES[0]).messages
        assert isinstance(opened[-1], AIMessage)
        assert opened[-1].tool_calls == []
    else:
        assert outcome.retryable
