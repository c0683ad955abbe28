"""Our client's own ways: what it sends, how it is called from anywhere, and what it asks for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.openai.connections import Connections
from millstream.agents.models.openai.model import OpenAiChatModel, speaks_responses
from millstream.agents.models.openai.request import body_of, told_messages
from millstream.agents.models.resolve import resolve_model
from millstream.schemas.endpoints import ModelEndpoint
from millstream.schemas.runs.errors import ContentRefused, ModelUnavailable
from tests.providers.server import PlayedProvider, serving

COMMON = {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": "m"}


@asynccontextmanager
async def playing(**answers: Any) -> AsyncIterator[tuple[PlayedProvider, OpenAiChatModel]]:
    provider = PlayedProvider({k: [v] for k, v in answers.items()}, COMMON, now_s=lambda: 0.0)
    http = ProviderHttp()
    async with serving(provider) as url:
        model = resolve_model("openai:m", http=http, base_url=url, api_key="key")
        assert isinstance(model, OpenAiChatModel)
        yield provider, model
    await http.close()


def whole(**message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    return {"json": {**COMMON, "choices": [choice], "usage": usage}}


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


class River(BaseModel):
    """A river."""

    name: str


async def test_it_is_called_from_threads_too() -> None:
    async with playing(hi={"says": ["a", "b"]}) as (_, model):
        pieces = await asyncio.to_thread(lambda: [piece.text for piece in model.stream("hi")])
        assert [piece for piece in pieces if piece] == ["a", "b"]
    async with playing(hi=whole(content="whole")) as (_, model):
        said = await asyncio.to_thread(model.invoke, "hi")
        assert (said.text, said.usage_metadata and said.usage_metadata["total_tokens"]) == (
            "whole",
            3,
        )


async def test_it_is_called_where_another_loop_runs() -> None:
    async with playing(hi=whole(content="whole")) as (_, model):
        # As a tool does that is not asynchronous, called in the loop's own thread.
        other = await asyncio.to_thread(lambda: asyncio.run(_invoke_in_loop(model)))
        assert other == "whole"


async def _invoke_in_loop(model: OpenAiChatModel) -> str:
    return model.invoke("hi").text


async def test_a_model_without_connections_takes_those_of_its_loop() -> None:
    kept = Connections(serves_loop=True)
    session = kept.session()
    async with playing(hi=whole(content="whole")) as (_, model):
        bare = model.model_copy(update={"connections": None})
        async with bare._connected() as used:
            assert used is kept
        await kept.close()
        assert session.closed
        async with bare._connected() as used:
            assert used is not kept
        assert (await bare.ainvoke("hi")).text == "whole"


async def test_an_answer_that_nobody_reads_to_its_end_closes_its_connection() -> None:
    async with playing(hi={"says": ["a"] * 5_000}) as (provider, model):
        async for _ in model.astream("hi"):
            break
        assert provider.pieces_taken[0] < 5_000


async def test_a_stream_may_keep_alive_by_empty_events_and_end_with_blanks() -> None:
    said = '{"choices": [{"index": 0, "delta": {"content": "a"}}]}'
    raw = f"\ufeffdata: {said}\n\ndata:\n\nevent: ping\n\ndata: {said}\n\ndata: [DONE] \n\n"
    played = {"raw": raw, "content_type": "text/event-stream"}
    async with playing(hi=played) as (_, model):
        assert [piece.text async for piece in model.astream("hi")][:2] == ["a", "a"]


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
async def test_a_body_may_begin_with_a_mark_of_the_byte_order(content_type: str) -> None:
    raw = "\ufeff" + json.dumps(whole(content="hello")["json"])
    async with playing(hi={"raw": raw, "content_type": content_type}) as (_, model):
        assert (await model.ainvoke("hi")).text == "hello"
        assert "".join([piece.text async for piece in model.astream("hi")]) == "hello"


@pytest.mark.parametrize("last", [{}, {"delta": None}])
async def test_an_end_without_a_delta_is_one(last: dict[str, Any]) -> None:
    # Azure by agent-framework's pull request 5734; hermes-agent's 90301.
    end = {"choices": [{"index": 0, "finish_reason": "length", **last}]}
    said = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    async with playing(hi={"sse": [said, end], "end": "close"}) as (_, model):
        *_, ended, _ = [piece async for piece in model.astream("hi")]
    assert ended.response_metadata["finish_reason"] == "length"


async def test_arguments_of_a_whole_answer_may_be_the_object_itself() -> None:
    call = {"id": "a", "function": {"name": "add", "arguments": {"a": 1}}}
    async with playing(hi=whole(content=None, tool_calls=[call])) as (_, model):
        (made,) = (await model.ainvoke("hi")).tool_calls
    assert (made["name"], made["args"]) == ("add", {"a": 1})


async def test_tools_and_choices_are_told() -> None:
    async with playing(hi=whole(content="no")) as (provider, model):
        for choice in ("add", "any", True, "auto", None):
            await model.bind_tools([add], tool_choice=choice).ainvoke("hi")
        told = [call.body.get("tool_choice") for call in provider.calls]
        named = {"type": "function", "function": {"name": "add"}}
        assert told == [named, "required", "required", "auto", None]
        (offered,) = provider.calls[0].body["tools"]
        assert offered["function"]["name"] == "add"
        assert "strict" not in offered["function"]


async def test_no_tools_are_no_list() -> None:
    async with playing(hi=whole(content="no")) as (provider, model):
        await model.bind_tools([], tool_choice="any", parallel_tool_calls=False).ainvoke("hi")
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & provider.calls[0].body.keys()


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
async def test_an_answer_by_a_class_is_its_instance(method: Any) -> None:
    async with playing(hi=whole(content='{"name": "Rhine"}')) as (provider, model):
        answer = await model.with_structured_output(River, method=method).ainvoke("hi")
    assert answer == River(name="Rhine")
    form = provider.calls[0].body["response_format"]
    assert form["type"] == ("json_object" if method == "json_mode" else "json_schema")
    if method == "json_schema":
        assert form["json_schema"]["strict"] is True
        assert form["json_schema"]["schema"]["additionalProperties"] is False


async def test_an_answer_by_a_call_is_parsed_and_may_come_with_the_raw_one() -> None:
    function = {"name": "River", "arguments": '{"name": "Rhine"}'}
    calls = [{"id": "c", "type": "function", "function": function}]
    async with playing(hi=whole(content=None, tool_calls=calls)) as (_, model):
        by_call = model.with_structured_output(River, method="function_calling", include_raw=True)
        answer = await by_call.ainvoke("hi")
    assert answer["parsed"] == River(name="Rhine")
    assert answer["raw"].tool_calls[0]["name"] == "River"
    assert answer["parsing_error"] is None


async def test_a_refusal_of_a_structured_answer_is_raised() -> None:
    async with playing(hi=whole(content=None, refusal="never")) as (_, model):
        with pytest.raises(ContentRefused, match="never"):
            await model.with_structured_output(River).ainvoke("hi")


def test_what_other_providers_say_besides_is_left_out() -> None:
    said = AIMessage(
        [
            {"type": "thinking", "thinking": "hm", "signature": "x"},
            {"type": "text", "text": "so", "index": 1},
            {"type": "tool_use", "id": "c", "name": "add", "input": {}},
        ],
        tool_calls=[{"name": "add", "args": {"a": "ü"}, "id": "c"}],
        name="bot",
    )
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A"}}
    told = told_messages(
        [
            SystemMessage("be"),
            HumanMessage([{"type": "text", "text": "see"}, image]),
            said,
            ToolMessage([{"type": "text", "text": "3", "id": "x"}], tool_call_id="c", name="add"),
        ],
        "developer",
    )
    assert told == [
        {"role": "developer", "content": "be"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,A"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "so"}],
            "tool_calls": [
                {
                    "type": "function",
                    "id": "c",
                    "function": {"name": "add", "arguments": '{"a": "ü"}'},
                }
            ],
            "name": "bot",
        },
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "3"}]},
    ]


def test_an_id_that_is_too_long_for_openai_is_cut_for_the_call_and_its_answer() -> None:
    # vercel/ai's issue 5171, camel's issue 2215, litellm's issue 41534.
    ids = [f"chatcmpl-tool-{number:032x}" for number in range(2)] + ["call_short"]
    calls = [{"name": "add", "args": {}, "id": each, "type": "tool_call"} for each in ids]
    asked = AIMessage("", tool_calls=calls)
    told = told_messages([asked, *(ToolMessage("1", tool_call_id=each) for each in ids)], "system")
    sent = [call["id"] for call in told[0]["tool_calls"]]
    assert sent == [each["tool_call_id"] for each in told[1:]]
    assert len(set(sent)) == len(ids)
    assert max(map(len, sent)) <= 40
    assert sent[-1] == ids[-1]


def test_a_body_holds_whatever_python_holds() -> None:
    assert (
        body_of({"n": 2**70, "half": "\ud83d"})
        == b'{"n": 1180591620717411303424, "half": "\\ud83d"}'
    )


def test_a_key_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelUnavailable, match="set OPENAI_API_KEY"):
        resolve_model("openai:m")


async def test_a_key_may_end_with_its_files_line() -> None:
    # langchain's issue 21261, devlake's 7132.
    made = resolve_model("openai:m", api_key=" key\n", base_url="http://127.0.0.1:1/v1")
    assert isinstance(made, OpenAiChatModel)
    assert made._headers()["authorization"] == "Bearer key"


@pytest.mark.parametrize(
    ("key", "why"), [("ke\ny", "holds what no key"), ("k…y", "no key"), (" \n", "is missing")]
)
def test_a_key_that_is_none_is_told_before_a_call_and_not_shown(key: str, why: str) -> None:
    with pytest.raises(ModelUnavailable, match=why) as raised:
        resolve_model("openai:m", api_key=key, base_url="http://127.0.0.1:1/v1")
    assert key.strip() == "" or key not in str(raised.value)


def test_a_key_beside_one_in_the_address_is_told() -> None:
    with pytest.raises(ModelUnavailable, match="its address another") as raised:
        resolve_model("openai:m", api_key="key", base_url="http://ada:secret@127.0.0.1:1/v1")
    assert "secret" not in str(raised.value)


def test_keys_and_addresses_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    monkeypatch.setenv("OPENAI_API_BASE", "http://older/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://newer/v1/")
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    model = resolve_model("openai:m", max_tokens=3)
    assert isinstance(model, OpenAiChatModel)
    assert model._url == "http://newer/v1/chat/completions"
    assert model._headers()["authorization"] == "Bearer secret-key"
    assert model._headers()["openai-organization"] == "org"
    assert model._params() == {"max_tokens": 3}
    assert "secret-key" not in repr(model)


OWN_SERVER = {
    "vllm": ModelEndpoint(base_url="http://inside:8000/v1"),
    "openai:ours": ModelEndpoint(base_url="http://ours/v1/", key_variable="OURS_KEY"),
}


def test_a_server_of_ones_own_is_not_told_openais_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    monkeypatch.setenv("OURS_KEY", "ours")
    model = resolve_model("vllm:qwen/qwen3:8b", endpoints=OWN_SERVER, max_tokens=7)
    assert isinstance(model, OpenAiChatModel)
    assert model._url == "http://inside:8000/v1/chat/completions"
    assert (model.model_name, model._params()) == ("qwen/qwen3:8b", {"max_tokens": 7})
    assert model._headers() == {"content-type": "application/json"}
    ours = resolve_model("openai:ours", endpoints=OWN_SERVER)
    assert isinstance(ours, OpenAiChatModel)
    assert ours._headers()["authorization"] == "Bearer ours"
    other = resolve_model("openai:other", endpoints=OWN_SERVER)
    assert isinstance(other, OpenAiChatModel)
    assert other._headers()["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vllm", "vllm:NAME"),
        ("openai:ours", "set OURS_KEY"),
        ("vlm:qwen", "no provider is called 'vlm'; names like it: `vllm:`"),
    ],
)
def test_what_a_server_of_ones_own_lacks_is_said(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OURS_KEY", raising=False)
    with pytest.raises(ModelUnavailable, match=words):
        resolve_model(name, endpoints=OWN_SERVER)


@pytest.mark.parametrize(
    ("model", "params", "responses"),
    [
        ("gpt-5-mini", {}, False),
        ("gpt-5-pro", {}, True),
        ("gpt-5.2-pro-2026", {}, True),
        ("gpt-5-codex", {}, True),
        ("gpt-5-pro", {"use_responses_api": False}, False),
        ("gpt-5-mini", {"reasoning": {"effort": "low"}}, True),
        ("gpt-5-mini", {"use_responses_api": True}, True),
    ],
)
def test_models_that_are_served_by_responses_only_keep_langchains_class(
    model: str, params: dict[str, Any], *, responses: bool
) -> None:
    assert speaks_responses(model, params) is responses
    made = resolve_model(f"openai:{model}", api_key="key", **params)
    assert isinstance(made, OpenAiChatModel) is not responses
