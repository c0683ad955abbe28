"""What a model is told in the place of an image, a file or a recording that it is not shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeGuard

from millstream.schemas.content import label_of

__all__ = ["is_media", "labelled_content", "labelled_text"]

_TYPES: Final = frozenset({"image", "image_url", "audio", "file", "video"})


def is_media(block: object) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether a block of a message is media, of whatever form and type a tool gave it."""
    return isinstance(block, Mapping) and block.get("type") in _TYPES


def labelled_content(content: str | Sequence[Any]) -> Any:
    """Give a message's content with labels in the place of all media: `[image/png, 12 kB]`."""
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": label_of(block)} if is_media(block) else block for block in content
    ]


def labelled_text(content: str | Sequence[Any]) -> str:
    """Give a message's content as people are shown it: its text, and labels of its media."""
    if isinstance(content, str):
        return content
    told = ""
    for block in content:
        if is_media(block):
            told += f"{' ' if told else ''}{label_of(block)}"
        elif isinstance(block, str):
            told += block
        elif block.get("type") == "text":
            told += str(block.get("text", ""))
    return told
