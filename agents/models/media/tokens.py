"""How many tokens a model reads for what is no text: at most, as providers' documents say.

What counts is how large an image is drawn, not how long it is in base64: counted as text, one
photograph is more than a whole context (OmniRoute#8368, gemini-cli#17923).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from millstream.schemas.content import (
    AudioContent,
    ContentBlock,
    ImageContent,
    TextContent,
    block_of,
)

__all__ = ["IMAGE_TOKENS_MAX", "media_tokens", "tokens_max"]

IMAGE_TOKENS_MAX: Final = 5_000
"""Anthropic: 4,784 at most (platform.claude.com, vision). OpenAI: 1,536 patches at 2.46 tokens."""

PAGE_TOKENS_MAX: Final = 3_000
"""A page of a PDF is read as text and as an image: 1,500 to 3,000 tokens (Anthropic)."""

PAGES_MAX: Final = 100
"""Of one document (Anthropic)."""

PAGE_BYTES_MIN: Final = 1_000
"""Taken for the least that a page of a PDF has: so many pages an inline file may have."""

AUDIO_BYTES_PER_TOKEN: Final = 25
"""Of a recording at 8 kbit/s, and 32 tokens for a second (Gemini; OpenAI: 10)."""


def tokens_max(block: ContentBlock) -> int:
    """Give the most tokens that a block is read as, once."""
    if isinstance(block, TextContent):
        return len(block.text.encode(errors="replace"))
    if isinstance(block, ImageContent):
        return IMAGE_TOKENS_MAX
    if isinstance(block, AudioContent):
        return block.size_bytes // AUDIO_BYTES_PER_TOKEN + 1
    if (text := block.text) is not None:
        return len(text.encode(errors="replace"))
    pages = PAGES_MAX if block.url else min(PAGES_MAX, block.size_bytes // PAGE_BYTES_MIN + 1)
    return pages * PAGE_TOKENS_MAX


def media_tokens(block: Any) -> int:
    """Give the most tokens of a block as it stands in a message, 0 of text and what is unknown.

    Also as LangChain tells callbacks of it: an image as OpenAI has it, a file by an older name.
    """
    if not isinstance(block, Mapping) or block.get("type") == "text":
        return 0
    if block.get("type") == "image_url":
        return IMAGE_TOKENS_MAX
    if "data" in block:
        block = {**block, "base64": block["data"]}
    known = block_of(block)
    return 0 if known is None else tokens_max(known)
