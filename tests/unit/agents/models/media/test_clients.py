"""LangChain's clients say all content that they are told of as it is sent here, and fetch none."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_ollama import ChatOllama
from pydantic import SecretStr

from millstream.agents.sessions.question import question_of
from tests import making

KEY = SecretStr("k")
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(4)).decode()
MP3 = base64.b64encode(b"ID3" + bytes(9)).decode()
IMAGE = {"type": "image", "base64": PNG, "mime_type": "image/png"}
IMAGE_URL = {"type": "image", "url": "https://a.org/x.png"}
PDF = {"type": "file", "base64": "JVBERi0x", "mime_type": "application/pdf"}
PDF_URL = {"type": "file", "url": "https://a.org/r.pdf"}
RECORDING = {"type": "audio", "base64": MP3, "mime_type": "audio/mpeg"}


def payload(model: BaseChatModel, *content: dict[str, Any]) -> Any:
    """Give what a client would send of a question, without a call."""
    question = question_of(making.resolved("What?", content=list(content)))
    if isinstance(model, ChatAnthropic):
        return model._get_request_payload([question])["messages"][0]["content"]
    if isinstance(model, ChatGoogleGenerativeAI):
        (told,) = model._prepare_request([question])["contents"]
        return [part.inline_data for part in told.parts[1:]]
    assert isinstance(model, ChatOllama)
    (told,) = model._convert_messages_to_ollama_messages([question])
    return told


def test_anthropics_says_images_and_documents() -> None:
    told = payload(
        ChatAnthropic(model_name="claude-sonnet-4-5", api_key=KEY, timeout=None, stop=None),
        *(IMAGE, IMAGE_URL, PDF, PDF_URL),
    )
    assert told[1:] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "image", "source": {"type": "url", "url": "https://a.org/x.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
        },
        {"type": "document", "source": {"type": "url", "url": "https://a.org/r.pdf"}},
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_geminis_says_images_documents_and_recordings() -> None:
    model = ChatGoogleGenerativeAI(model="gemini-2.5-flash", api_key=KEY)
    told = payload(model, IMAGE, PDF, RECORDING)
    assert [(one.mime_type, one.data) for one in told] == [
        ("image/png", base64.b64decode(PNG)),
        ("application/pdf", b"%PDF-1"),
        ("audio/mp3", base64.b64decode(MP3)),
    ]


def test_ollamas_says_images() -> None:
    model = ChatOllama(model="llava", profile={"image_inputs": True})
    told = payload(model, IMAGE)
    assert (told["content"].strip(), told["images"]) == ("What?", [PNG])
