"""The limit of an answer, held to by us where a provider passes it."""

from __future__ import annotations

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from millstream.agents.models.thoughts import thought_of
from millstream.agents.models.usage import BYTES_PER_TOKEN_MAX, DOUBT

__all__ = ["AnswerBound"]


class AnswerBound:
    """What of an answer may still come: as many pieces as tokens, and the bytes that these have."""

    __slots__ = ("_bytes_left", "_pieces_left", "_tokens_max")

    def __init__(self, tokens_max: int) -> None:
        self._tokens_max = tokens_max
        self._pieces_left = tokens_max
        self._bytes_left = tokens_max * BYTES_PER_TOKEN_MAX

    def cut(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk | None:
        """Give what of a chunk is within the limit as the last one, `None` where all of it is."""
        size_bytes = _size_bytes(chunk)
        if not size_bytes:
            return None
        self._pieces_left -= 1
        self._bytes_left -= size_bytes
        if self._pieces_left >= 0 and self._bytes_left >= 0:
            return None
        return self._cut(chunk, size_bytes + self._bytes_left if self._pieces_left >= 0 else 0)

    def cut_text(self, text: str) -> ChatGenerationChunk | None:
        """Give the last chunk where a piece that is text passes the limit, else `None`."""
        size_bytes = len(text) if text.isascii() else len(text.encode(errors="replace"))
        self._pieces_left -= 1
        self._bytes_left -= size_bytes
        if self._pieces_left >= 0 and self._bytes_left >= 0:
            return None
        chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
        return self._cut(chunk, size_bytes + self._bytes_left if self._pieces_left >= 0 else 0)

    def _cut(self, chunk: ChatGenerationChunk, bytes_left: int) -> ChatGenerationChunk:
        content = chunk.message.content
        text = ""
        if isinstance(content, str) and bytes_left > 0:
            text = content.encode(errors="replace")[:bytes_left].decode(errors="ignore")
        why = f"the answer passed its limit of {self._tokens_max} tokens, and was ended there"
        return ChatGenerationChunk(
            message=AIMessageChunk(content=text),
            generation_info={"finish_reason": "length", DOUBT: why},
        )


def _size_bytes(chunk: ChatGenerationChunk) -> int:
    """Give the bytes of what a chunk holds of the answer: text, reasoning, arguments of calls."""
    message = chunk.message
    said = message.content if isinstance(message.content, str) else message.text
    size = len(said.encode(errors="replace")) + len(thought_of(message).encode(errors="replace"))
    if isinstance(message, AIMessageChunk):
        for call in message.tool_call_chunks:
            size += len((call["args"] or "").encode(errors="replace"))
    return size
