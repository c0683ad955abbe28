from __future__ import annotations

import base64
from typing import Any

import pytest
from langchain_core.messages.content import (
    create_audio_block,
    create_file_block,
    create_image_block,
    create_text_block,
)
from pydantic import ValidationError

from millstream.schemas.base import Address
from millstream.schemas.content import BLOCKS_MAX, URL_CHARS_MAX, inline_bytes
from millstream.schemas.events import AgentRequest, ResolvedRequest

PNG = b"\x89PNG\r\n\x1a\n" + bytes(12_000)
JPEG = b"\xff\xd8\xff\xe0" + bytes(200)
PDF = b"%PDF-1.7 " + bytes(91)
WAV = b"RIFF\x10\0\0\0WAVEfmt " + bytes(100)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def asked(*content: object, **fields: Any) -> AgentRequest:
    return AgentRequest.model_validate(
        {"user_id": "ada", "input": "", "content": list(content), **fields}
    )


def resolved(*content: object, **fields: Any) -> ResolvedRequest:
    return asked(*content, **fields).resolved(Address(topic="t", partition=0, offset=0), 7)


def image(**fields: object) -> dict[str, object]:
    return {"type": "image", "base64": b64(PNG), "mime_type": "image/png"} | fields


def test_the_blocks_that_langchain_makes_are_read() -> None:
    request = asked(
        create_text_block("What is this?"),
        create_image_block(base64=b64(PNG), mime_type="image/png"),
        create_image_block(url="https://example.org/cat.png?sig=secret"),
        create_file_block(base64=b64(PDF), mime_type="application/pdf", filename="a.pdf"),
        create_audio_block(base64=b64(WAV), mime_type="audio/wav"),
    )
    assert request.content is not None
    assert [block.label for block in request.content] == [
        "What is this?",
        "[image/png, 12 kB]",
        "[image at example.org/cat.png]",
        "[application/pdf, 100 B]",
        "[audio/wav, 116 B]",
    ]
    assert inline_bytes(request.content) == 13 + sum(len(b64(one)) for one in (PNG, PDF, WAV))


@pytest.mark.parametrize(
    ("block", "told"),
    [
        # langchain-ai/langchain#39799: it went out as `data:None;base64,…`.
        ({"type": "image", "base64": b64(PNG)}, "needs its `mime_type`"),
        # BerriAI/litellm#24900: Anthropic compares, and fails the whole call.
        (image(base64=b64(JPEG)), "the data is image/jpeg, and the `mime_type` says image/png"),
        # NousResearch/hermes-agent#55432.
        (image(mime_type="image/jpg"), "'image/jpeg'"),
        (image(mime_type="image/svg+xml"), "'image/png'"),
        (image(base64="data:image/png;base64,iVBO"), "give the data alone"),
        (image(base64="iVBO\niVBO"), "it is not base64"),
        (image(base64="iVB"), "at least 4 characters"),
        (image(base64="iVBOR"), "it is not base64"),
        (image(base64="_-_-"), "it is not base64"),
        (image(base64=""), "at least 4 characters"),
        (image(url="https://example.org/a.png"), "one of the two"),
        ({"type": "image", "file_id": "f-1"}, "one of the two"),
        ({"type": "image", "url": "file:///etc/passwd"}, "begins with http"),
        ({"type": "image", "url": "gs://bucket/a.png"}, "begins with http"),
        ({"type": "image", "url": "/etc/passwd"}, "begins with http"),
        ({"type": "image", "url": "https://"}, "begins with http"),
        ({"type": "image", "url": "https://[x/a.png"}, "begins with http"),
        ({"type": "image", "url": "https://a.org/a b.png"}, "begins with http"),
        ({"type": "image", "url": "https://a.org/\nx"}, "begins with http"),
        ({"type": "image", "url": "data:image/png;base64,iVBO"}, "give it as `base64`"),
        ({"type": "image", "url": "https://a.org/" + "x" * URL_CHARS_MAX}, "at most"),
        ({"type": "file", "base64": b64(PDF)}, "needs its `mime_type`"),
        ({"type": "file", "base64": b64(PDF), "mime_type": "pdf"}, "match pattern"),
        ({"type": "file", "base64": b64(PNG), "mime_type": "application/pdf"}, "is image/png"),
        ({"type": "audio", "url": "https://a.org/a.wav", "mime_type": "audio/wav"}, "audio.url"),
        # anthropics/claude-code#59862: an image alone came with an empty text, which is refused.
        ({"type": "text", "text": " "}, "match pattern"),
        ({"type": "image_url", "image_url": {"url": "https://a.org/a.png"}}, "'text', 'image'"),
        ({"type": "video", "base64": "AAAA", "mime_type": "video/mp4"}, "'text', 'image'"),
        ("look", "object"),
    ],
)
def test_a_block_that_no_model_could_take_is_refused(block: object, told: str) -> None:
    with pytest.raises(ValidationError, match=told) as refused:
        asked(block)
    problems = refused.value.errors(include_url=False, include_input=False)
    assert b64(PNG)[:40] not in str(problems)


def test_there_are_bounds_on_the_number_of_blocks() -> None:
    text = {"type": "text", "text": "x"}
    assert asked(*[text] * BLOCKS_MAX).content is not None
    with pytest.raises(ValidationError, match="at most 100"):
        asked(*[text] * (BLOCKS_MAX + 1))
    with pytest.raises(ValidationError, match="at least 1"):
        asked()


def test_data_whose_beginning_says_nothing_is_believed() -> None:
    assert asked({"type": "file", "base64": "AAAA", "mime_type": "text/csv"}).content is not None
    mp3 = b64(b"\xff\xfb\x90\0")
    assert asked({"type": "audio", "base64": mp3, "mime_type": "audio/mpeg"}).content is not None


def test_the_digest_of_a_request_without_content_is_that_of_earlier_versions() -> None:
    request = AgentRequest(user_id="ada", input="hi", request_id="r", session_id="s")
    digest = request.resolved(Address(topic="t", partition=0, offset=0), 7).digest
    assert digest == "0ab9bd8294ab759f"


def test_the_digest_covers_the_content() -> None:
    at = {"request_id": "r", "session_id": "s", "input": "hi"}
    url = {"type": "image", "url": "https://a.org/1.png"}
    bare = AgentRequest(user_id="ada", **at).resolved(Address(topic="t", partition=0, offset=0), 7)
    digests = {
        bare.digest,
        resolved(image(), **at).digest,
        resolved(image(base64=b64(PNG + b"\0\0\0")), **at).digest,
        resolved(url, **at).digest,
        resolved({**url, "url": "https://a.org/2.png"}, **at).digest,
        resolved(image(), url, **at).digest,
        resolved(url, image(), **at).digest,
        resolved(image(), **{**at, "input": "ho"}).digest,
    }
    assert len(digests) == 8
    # LangChain gives each block an id of its own.
    assert resolved(image(id="lc_1"), **at).digest == resolved(image(id="lc_2"), **at).digest


def test_what_is_read_and_written_again_is_the_same() -> None:
    request = resolved(image(), {"type": "text", "text": "hi"})
    again = ResolvedRequest.model_validate_json(request.model_dump_json(exclude_none=True))
    assert again == request
    assert again.digest == request.digest
