from __future__ import annotations

from typing import Any

import pytest
from mcp import types

from millstream.agents.mcp.results import message_of
from millstream.agents.mcp.server import McpServer

SERVER = McpServer(name="a", command="a", result_bytes_max=256)


def told(*content: dict[str, Any], **fields: Any) -> Any:
    result = types.CallToolResult.model_validate({"content": list(content), **fields})
    return message_of(SERVER, "do", result)


TEXT = {"type": "text", "text": "hello"}
SMALL = {"type": "image", "data": "AAAA", "mimeType": "image/png"}


def test_text_is_text() -> None:
    answer = told(TEXT, {"type": "text", "text": "you"})
    assert (answer.content, answer.status, answer.name) == ("hello\nyou", "success", "do")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}, "audio of audio/wav, 3 bytes"),
        ({**SMALL, "data": "A" * 1000}, "image of image/png, 750 bytes, left out: too large"),
        ({**SMALL, "data": "#"}, "no base64"),
        ({"type": "resource_link", "name": "n", "uri": "a://b"}, "resource 'n' at a://b"),
        ({"type": "resource", "resource": {"uri": "a://b", "text": "inside"}}, "inside"),
        (
            {"type": "resource", "resource": {"uri": "a://b", "blob": "AAAA"}},
            "file of unknown kind",
        ),
    ],
)
def test_what_a_model_cannot_read_is_told_in_words(content: dict[str, Any], words: str) -> None:
    assert words in told(content).content


def test_a_small_image_stays_one() -> None:
    image = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
    assert told(SMALL, TEXT).content == [{"type": "text", "text": "hello"}, image]
    blob = {"uri": "a://b", "blob": "AAAA", "mimeType": "image/png"}
    assert told({"type": "resource", "resource": blob}).content == [image]


def test_structured_content_is_told_where_no_text_is_also_of_an_error() -> None:
    assert told(structuredContent={"a": "é"}).content == '{"a": "é"}'
    assert told(TEXT, structuredContent={"a": 1}).content == "hello"
    failed = told(structuredContent={"code": "LATE"}, isError=True)
    assert (failed.content, failed.status) == ('{"code": "LATE"}', "error")


def test_nothing_is_told_as_nothing() -> None:
    assert told().content == "(nothing)"
    assert told(isError=True).content == "the server reported an error and said nothing of it"
