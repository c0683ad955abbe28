"""What a provider is sent of a turn is the same, to the byte, after the turn was read back."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from millstream.agents.sessions.recorded.messages import as_json, from_json
from tests.harness.odd_values import over_the_wire

KEY = SecretStr("k")
SIGNATURE = b64encode(b"\x12\xff\x00 signed").decode()
CALL = {"name": "pay", "args": {"eur": 1.0, "order": 2**70}, "id": "c1"}

Send = Callable[[Sequence[BaseMessage]], Any]


def to_anthropic(turn: Sequence[BaseMessage]) -> Any:
    model = ChatAnthropic(model_name="claude-sonnet-4-5", api_key=KEY, timeout=None, stop=None)
    return model._get_request_payload([*turn])


def to_gemini(turn: Sequence[BaseMessage]) -> Any:
    model = ChatGoogleGenerativeAI(model="gemini-2.5-pro", google_api_key=KEY)
    return model._prepare_request([*turn])["contents"]


def to_openai(turn: Sequence[BaseMessage]) -> Any:
    model = ChatOpenAI(model="gpt-5", api_key=KEY, use_responses_api=True)
    return model._get_request_payload([*turn])


def to_ollama(turn: Sequence[BaseMessage]) -> Any:
    return ChatOllama(model="qwen3")._convert_messages_to_ollama_messages([*turn])


SAID: dict[str, tuple[Send, AIMessage]] = {
    "Anthropic": (
        to_anthropic,
        AIMessage(
            [
                {"type": "thinking", "thinking": "so\u2028", "signature": SIGNATURE},
                {"type": "redacted_thinking", "data": SIGNATURE},
                {"type": "text", "text": "é"},
                {"type": "tool_use", "id": "c1", "name": "pay", "input": CALL["args"]},
            ],
            tool_calls=[CALL],
            response_metadata={"model_provider": "anthropic"},
        ),
    ),
    "Gemini": (
        to_gemini,
        AIMessage(
            [
                {"type": "thinking", "thinking": "so", "signature": SIGNATURE},
                {"type": "text", "text": "é", "extras": {"signature": SIGNATURE}},
            ],
            tool_calls=[{**CALL, "args": {"eur": 1.0}}],
            additional_kwargs={"__gemini_function_call_thought_signatures__": {"c1": SIGNATURE}},
            response_metadata={"model_provider": "google_genai"},
        ),
    ),
    "OpenAI": (
        to_openai,
        AIMessage(
            [
                {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": SIGNATURE},
                {"type": "text", "text": "é", "id": "msg_1", "annotations": []},
            ],
            tool_calls=[CALL],
            additional_kwargs={"__openai_function_call_ids__": {"c1": "fc_1"}},
            response_metadata={"model_provider": "openai", "id": "resp_1"},
        ),
    ),
    "Ollama": (
        to_ollama,
        AIMessage("é", tool_calls=[CALL], additional_kwargs={"reasoning_content": "so"}),
    ),
}


@pytest.mark.parametrize("provider", SAID)
def test_a_turn_that_was_read_back_is_sent_as_it_was(provider: str) -> None:
    send, answer = SAID[provider]
    done = ToolMessage("paid", tool_call_id="c1", name="pay", status="error")
    turn = [HumanMessage("pay"), answer, done]
    sent = send(turn)
    assert send([from_json(over_the_wire(as_json(one))) for one in turn]) == sent
    assert SIGNATURE in str(sent) or provider in {"Gemini", "Ollama"}
    if provider == "Gemini":
        assert str(sent).count(r"b'\x12\xff\x00 signed'") == 3
