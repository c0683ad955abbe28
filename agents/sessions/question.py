"""A request as the message that a model is told: its input, and then its content in order."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage

from millstream.agents.sessions.text import well_formed
from millstream.schemas.content import ContentBlock, FileContent, TextContent
from millstream.schemas.events import ResolvedRequest

__all__ = ["question_of"]


def question_of(request: ResolvedRequest) -> HumanMessage:
    """Give the message; of a request without content, it is the input alone."""
    text = well_formed(request.input)
    if request.content is None:
        return HumanMessage(text)
    # A blank text among blocks is refused.
    told = [{"type": "text", "text": text}] if text.strip() else []
    return HumanMessage([*told, *map(_told, request.content)])


def _told(block: ContentBlock) -> dict[str, Any]:
    if isinstance(block, TextContent):
        return {"type": "text", "text": well_formed(block.text)}
    if isinstance(block, FileContent):
        name = block.filename or "file"
        if (text := block.text) is not None:
            return {"type": "text", "text": f"{name}:\n{well_formed(text)}"}
        # OpenAI refuses a file without a name.
        return {**block.model_dump(exclude_none=True), "extras": {"filename": name}}
    return block.model_dump(exclude_none=True)
