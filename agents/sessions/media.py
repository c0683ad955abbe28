"""The images and files of a session's earlier turns: shown again, or told of by their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage, ToolMessage

from millstream.agents.models.media.labels import is_media, labelled_content
from millstream.agents.models.media.tokens import IMAGE_TOKENS_MAX, tokens_max
from millstream.agents.sessions.memory import memory_tokens_max
from millstream.agents.templates.memory import Memory
from millstream.schemas.content import InputKind, TextContent, block_of

__all__ = ["EarlierMedia", "earlier_media", "has_media", "labelled", "without_oldest_media"]


@dataclass(frozen=True, slots=True)
class EarlierMedia:
    """Earlier messages as a model is shown them, and those that a later model may be shown whole.

    Attributes:
        shown: The messages, in order.
        kept: By its id, a message as it is shown, and as the session keeps it.
    """

    shown: list[AnyMessage]
    kept: Mapping[str, tuple[AnyMessage, AnyMessage]]

    def restored(self, messages: Sequence[AnyMessage]) -> list[AnyMessage]:
        """Give a state's messages, with what this model alone was not shown in its place again.

        A message that was changed since stays as it is.
        """
        restored = []
        for message in messages:
            shown, kept = self.kept.get(message.id or "", (None, message))
            restored.append(kept if shown is None or message.content == shown.content else message)
        return restored


def has_media(messages: Sequence[BaseMessage]) -> bool:
    """Tell whether a question or a tool's result holds more than text."""
    return any(map(_holds_blocks, messages))


def earlier_media(
    messages: Sequence[AnyMessage], taken: frozenset[InputKind], memory: Memory
) -> EarlierMedia:
    """Give earlier messages as a model is shown them: their newest media, as far as there is room.

    What the model does not take, and what has no room, is told of by its label. The room is what
    the texts leave of the template's memory. What only this model does not take is kept for the
    next ones, as far as there is room for it.
    """
    texts_tokens = sum(len(one.text.encode(errors="replace")) for one in messages)
    room_tokens = kept_room_tokens = memory_tokens_max(memory) - texts_tokens
    shown: list[AnyMessage] = []
    kept: dict[str, tuple[AnyMessage, AnyMessage]] = {}
    for message in reversed(messages):
        if not _holds_blocks(message):
            shown.append(message)
            continue
        shown_blocks: list[Any] = []
        kept_blocks: list[Any] = []
        for block in reversed(message.content):
            (label,) = labelled_content([block])
            needs, tokens = _needs_of(block)
            is_shown = (needs is None or needs in taken) and tokens <= room_tokens
            is_kept = is_shown or tokens <= kept_room_tokens
            room_tokens -= tokens if is_shown else 0
            kept_room_tokens -= tokens if is_kept else 0
            shown_blocks.append(block if is_shown else label)
            kept_blocks.append(block if is_kept else label)
        said = message.model_copy(update={"content": shown_blocks[::-1]})
        shown.append(said)
        if shown_blocks != kept_blocks and message.id:
            whole = message.model_copy(update={"content": kept_blocks[::-1]})
            kept[message.id] = (said, whole)
    return EarlierMedia(shown[::-1], kept)


def without_oldest_media(
    messages: Sequence[BaseMessage], bytes_less: int, lost: list[str]
) -> list[BaseMessage]:
    """Give messages that hold about so many bytes less: labels stand for the oldest media.

    Names in `lost` what was left out; the newest goes last.
    """
    less: list[BaseMessage] = []
    for index, message in enumerate(messages):
        if bytes_less <= 0 or not _holds_blocks(message):
            less.append(message)
            continue
        blocks: list[Any] = []
        for at, block in enumerate(message.content):
            if bytes_less <= 0 or not is_media(block):
                blocks.append(block)
                continue
            (label,) = labelled_content([block])
            bytes_less -= len(str(block))
            lost.append(f"messages[{index}].content[{at}]: {label['text']}")
            blocks.append(label)
        less.append(message.model_copy(update={"content": blocks}))
    return less


def labelled(messages: Sequence[BaseMessage]) -> list[Any]:
    """Give messages with labels in the place of all media: for a model that is to read of them."""
    return [
        message.model_copy(update={"content": labelled_content(message.content)})
        if _holds_blocks(message)
        else message
        for message in messages
    ]


def _holds_blocks(message: object) -> bool:
    return isinstance(message, HumanMessage | ToolMessage) and not isinstance(message.content, str)


def _needs_of(block: Any) -> tuple[InputKind | None, int]:
    """Give what a model must take to be shown a block, and its tokens, 0 of what is no media.

    A tool may have given an image of any form and type.
    """
    if not is_media(block):
        return None, 0
    known = block_of(block)
    if known is not None and not isinstance(known, TextContent):
        return known.needs, tokens_max(known)
    return ("image" if block["type"].startswith("image") else "file"), IMAGE_TOKENS_MAX
