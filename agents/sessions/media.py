"""The images and files of a session's earlier turns: shown again, or told of by their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AnyMessage, HumanMessage

from millstream.agents.models.media.tokens import tokens_max
from millstream.agents.sessions.memory import memory_tokens_max
from millstream.agents.templates.memory import Memory
from millstream.schemas.content import InputKind, TextContent, block_of, label_of

__all__ = ["shown_again"]


def shown_again(
    messages: Sequence[AnyMessage], taken: frozenset[InputKind], memory: Memory
) -> list[AnyMessage]:
    """Give earlier messages as a model is shown them: their newest media, as far as there is room.

    What the model does not take, and what has no room, is told of by its label. The room is what
    the texts leave of the template's memory.
    """
    texts_tokens = sum(len(one.text.encode(errors="replace")) for one in messages)
    room_tokens = memory_tokens_max(memory) - texts_tokens
    shown: list[AnyMessage] = []
    for message in reversed(messages):
        content = message.content
        if not isinstance(message, HumanMessage) or isinstance(content, str):
            shown.append(message)
            continue
        blocks: list[Any] = []
        for block in reversed(content):
            tokens = _tokens_of(block, taken)
            if tokens is not None and tokens <= room_tokens:
                room_tokens -= tokens
                blocks.append(block)
            else:
                blocks.append({"type": "text", "text": label_of(block)})
        shown.append(message.model_copy(update={"content": blocks[::-1]}))
    return shown[::-1]


def _tokens_of(block: object, taken: frozenset[InputKind]) -> int | None:
    """Give what a block takes of the room, 0 of text, `None` of what the model does not take."""
    if isinstance(block, str) or (isinstance(block, Mapping) and block.get("type") == "text"):
        return 0
    known = block_of(block)
    if known is None or isinstance(known, TextContent):
        return None
    needs = known.needs
    return tokens_max(known) if needs is None or needs in taken else None
