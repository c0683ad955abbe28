"""What is sent is what LangChain's class sends."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage
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
