"""What a provider's model is made to do, beside what LangChain's class does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.resolve import resolve_model
from millstream.agents.models.served import as_served
from millstream.schemas.runs.errors import QuotaExhausted
from tests.providers.server import PlayedProvider, serving


@pytest.mark.parametrize(
    ("params", "asks"),
    [
        ({}, True),
        ({"base_url": "http://127.0.0.1:9/v1"}, True),
        ({"http": ProviderHttp()}, True),
        ({"stream_usage": False}, False),
    ],
)
def test_usage_is_asked_for_unless_the_user_does_not_want_it(
    params: dict[str, Any], *, asks: bool
) -> None:
    model = resolve_model("openai:fake", api_key="key", **params)
    assert getattr(model, "stream_usage", None) is asks


@pytest.mark.parametrize(
    ("name", "base_url", "field"),
    [
        ("openai:gpt-4o", None, "max_completion_tokens"),
        ("openai:gpt-4o", "https://api.openai.com/v1", "max_completion_tokens"),
        ("openai:gpt-4o", "https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("openai:llama", "http://127.0.0.1:8080/v1", "max_tokens"),
        ("openai:gpt-5-mini", "https://gateway.example/v1", "max_completion_tokens"),
        ("openai:o3", "https://gateway.example/v1", "max_completion_tokens"),
        ("openai:gpt-oss-20b", "https://gateway.example/v1", "max_tokens"),
    ],
)
def test_a_limit_has_the_name_that_the_server_knows(
    name: str, base_url: str | None, field: str
) -> None:
    own: Any = resolve_model(name, api_key="key", base_url=base_url, max_tokens=7)
    langchains: Any = resolve_model(
        f"langchain:{name}", api_key="key", base_url=base_url, max_tokens=7
    )
    for payload in (own._get_invocation_params(), langchains._get_request_payload("hello")):
        assert {key: payload[key] for key in payload if key.startswith("max_")} == {field: 7}


async def _asked(answer: dict[str, Any]) -> AIMessage:
    provider = PlayedProvider({"hello": [answer]}, {}, now_s=lambda: 0.0)
    async with serving(provider) as url:
        model = resolve_model("openai:fake", api_key="key", base_url=url, max_tokens=7)
        return await model.ainvoke("hello")


async def test_an_error_in_the_body_of_a_call_that_does_not_stream_is_told() -> None:
    error = {"error": {"code": "insufficient_quota", "message": "pay"}}
    with pytest.raises(QuotaExhausted):
        await _asked({"json": error})


async def test_a_report_of_a_call_that_does_not_stream_is_cleaned() -> None:
    message = {"role": "assistant", "content": "x", "reasoning_content": "hm"}
    body = {
        "id": "c1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": -1, "completion_tokens": 5, "total_tokens": 4},
    }
    answer = await _asked({"json": body})
    assert answer.text == "x"
    assert answer.usage_metadata is None
    assert answer.additional_kwargs["reasoning_content"] == "hm"
    assert "-1" in answer.response_metadata["usage_doubt"]


class Wordy(GenericFakeChatModel):
    """Streams piece after piece, and knows no limit."""

    messages: Iterator[AIMessage | str] = iter(())

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        for _ in range(1_000):
            yield ChatGenerationChunk(message=AIMessageChunk(content="so "))


async def test_any_providers_answer_is_cut_at_its_limit() -> None:
    model = as_served(Wordy(), 3)
    assert type(model).__name__ == "Wordy"
    pieces = [chunk async for chunk in model.astream("hello")]
    assert "".join(each.text for each in pieces) == "so so so "
    assert "length" in {each.response_metadata.get("finish_reason") for each in pieces}
