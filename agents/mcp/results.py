"""What a model is told of a server's answer: text, images that are small enough, and words."""

from __future__ import annotations

import base64
import json
from typing import Any

from langchain_core.messages import ToolMessage
from mcp import types

from millstream.agents.mcp.server import McpServer

__all__ = ["message_of"]


def message_of(server: McpServer, name: str, result: types.CallToolResult) -> ToolMessage:
    """Give a server's answer as the message of a tool called `name`.

    Text and embedded text resources stay text. An image stays one where its bytes are within the
    server's `result_bytes_max`, as base64; a larger one, audio, files and links are told in words.
    Structured content is told where no text is. A result that the server calls an error is one.
    """
    blocks = [_block(server, content) for content in result.content]
    structured = result.structuredContent
    if structured is not None and not any(block["type"] == "text" for block in blocks):
        blocks.append(_text(json.dumps(structured, ensure_ascii=False)))
    images = [block for block in blocks if block["type"] != "text"]
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    # The gate that all calls go through cuts it, and says so.
    text = "\n".join(texts)
    if not text and not images:
        text = (
            "the server reported an error and said nothing of it" if result.isError else "(nothing)"
        )
    content: Any = text if not images else [*([_text(text)] if text else ()), *images]
    return ToolMessage(
        content=content,
        name=name,
        tool_call_id="",  # the call's own is put in its place
        status="error" if result.isError else "success",
    )


def _block(server: McpServer, content: types.ContentBlock) -> Any:  # noqa: PLR0911  a kind each
    match content:
        case types.TextContent(text=text):
            return _text(text)
        case types.ImageContent(data=data, mimeType=kind):
            return _image(server, data, kind)
        case types.AudioContent(data=data, mimeType=kind):
            return _text(f"[audio of {kind}, {len(data) * 3 // 4} bytes, left out]")
        case types.ResourceLink(uri=uri, name=name, mimeType=kind):
            return _text(f"[resource {name!r} at {uri}{f', {kind}' if kind else ''}]")
        case types.EmbeddedResource(resource=types.TextResourceContents(text=text)):
            return _text(text)
        case types.EmbeddedResource(resource=types.BlobResourceContents() as blob):
            kind = blob.mimeType or "unknown kind"
            if kind.startswith("image/"):
                return _image(server, blob.blob, kind)
            return _text(f"[file of {kind}, {len(blob.blob) * 3 // 4} bytes, left out: {blob.uri}]")
    return _text("[content of an unknown kind, left out]")


def _image(server: McpServer, data: str, kind: str) -> Any:
    if len(data) > server.result_bytes_max:
        return _text(f"[image of {kind}, {len(data) * 3 // 4} bytes, left out: too large]")
    try:
        base64.b64decode(data, validate=True)
    except ValueError:
        return _text(f"[image of {kind}, left out: it is no base64]")
    # As LangChain's blocks, without their random ids: an answer is the same each time.
    return {"type": "image", "base64": data, "mime_type": kind}


def _text(text: str) -> Any:
    return {"type": "text", "text": text}
