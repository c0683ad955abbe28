"""What is sent is what LangChain's class sends."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from millstream.agents.models.openai.request import told_messages
from millstream.agents.sessions.question import question_of
from tests import making

PDF = {
    "type": "file",
    "base64": "JVBERi0x",
    "mime_type": "application/pdf",
    "extras": {"filename": "a.pdf"},
}
CONTENT: list[dict[str, Any]] = [
    {"type": "text", "text": "Look:"},
    {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"},
    {"type": "image", "url": "https://example.org/cat.png"},
    PDF,
    {"type": "audio", "base64": "UklGRgAA", "mime_type": "audio/wav"},
]


def test_content_is_sent_as_langchains_class_sends_it() -> None:
    question = question_of(making.resolved("What is it?", content=CONTENT))
    own = told_messages([question], "system")
    langchains = ChatOpenAI(model="gpt-4o", api_key=SecretStr("k"))
    payload = langchains._get_request_payload([HumanMessage(question.content)])
    assert own == payload["messages"]
    kinds = [block["type"] for block in own[0]["content"]]
    assert kinds == ["text", "text", "image_url", "image_url", "file", "input_audio"]


# OpenHands/OpenHands#7700, QwenLM/qwen-code#3616, zeroclaw-labs/zeroclaw#10501
def test_images_that_tools_gave_follow_the_results_and_stand_in_none() -> None:
    image = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
    bitmap = {"type": "image", "base64": "AAAA", "mime_type": "image/bmp"}
    text = {"type": "text", "text": "done"}
    calls = [{"name": "look", "args": {}, "id": each, "type": "tool_call"} for each in "ab"]
    messages: list[BaseMessage] = [
        AIMessage("", tool_calls=calls),
        ToolMessage([text, image, bitmap], tool_call_id="a", name="look"),
        ToolMessage("nothing", tool_call_id="b", name="look"),
        AIMessage("a cat"),
    ]
    asked, first, second, shown, answer = told_messages(messages, "system", sees=True)
    label = {"type": "text", "text": "[image/png, 8 B]"}
    assert first["content"] == [text, label, {"type": "text", "text": "[image]"}]
    assert second["content"] == "nothing"
    data = {"url": "data:image/png;base64,iVBORw0KGgo="}
    assert shown == {
        "role": "user",
        "content": [
            {"type": "text", "text": "What look gave:"},
            {"type": "image_url", "image_url": data},
        ],
    }
    assert answer["content"] == "a cat"
    assert told_messages(messages[:-1], "system", sees=True)[-1] == shown
    assert told_messages(messages[:-1], "system") == [asked, first, second]
