"""A session's conversation in plain values: who said what, which tools were called, what came back.

It is told as it was saved, and nothing of it is mended or left out for a model's sake: a call whose
result was not kept is shown without one, and a result stays behind its call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage

from millstream.agents.models.media.labels import is_media, labelled_content
from millstream.agents.sessions.opening import opened_state
from millstream.schemas.events import CheckpointSaved

__all__ = ["CalledTool", "ConversationMessage", "Role", "conversation_of"]

Role = Literal["user", "assistant", "tool", "system"]

_SUMMARY: Final = "summarization"


@dataclass(frozen=True, slots=True)
class CalledTool:
    """A call of a tool as the model made it; `arguments` is text where that is no JSON object."""

    call_id: str
    name: str
    arguments: Mapping[str, Any] | str


@dataclass(frozen=True, slots=True)
class ConversationMessage:
    """A message of a conversation.

    Attributes:
        role: Who said it.
        text: What was said, or what a tool gave back; empty where a model only called tools.
        calls: The tools that a model called.
        media: Labels of the images, sounds and files that it holds.
        call_id: Of a tool's result: the call that it answers.
        tool: Of a tool's result: the tool's name.
        failed: Of a tool's result: the tool failed, and `text` says how.
        is_summary: It stands for earlier turns, of which a summary was made.
    """

    role: Role
    text: str
    calls: tuple[CalledTool, ...] = ()
    media: tuple[str, ...] = ()
    call_id: str | None = None
    tool: str | None = None
    failed: bool = False
    is_summary: bool = False


def conversation_of(saved: CheckpointSaved) -> tuple[ConversationMessage, ...]:
    """Give the conversation that a checkpoint holds, oldest message first.

    Of a turn that was tried several times it is the attempt that counted. Raises
    `CheckpointUnreadable`.
    """
    return tuple(map(_told, opened_state(saved).messages))


def _told(message: AnyMessage) -> ConversationMessage:
    text, media = str(message.text), _media(message)
    match message:
        case AIMessage():
            return ConversationMessage("assistant", text, calls=_calls(message), media=media)
        case ToolMessage():
            return ConversationMessage(
                "tool",
                text,
                media=media,
                call_id=message.tool_call_id,
                tool=message.name,
                failed=message.status == "error",
            )
        case HumanMessage():
            is_summary = message.additional_kwargs.get("lc_source") == _SUMMARY
            return ConversationMessage("user", text, media=media, is_summary=is_summary)
        case SystemMessage():
            return ConversationMessage("system", text, media=media)
        case _:
            # Functions and chat roles of old: nobody's here, but a checkpoint may hold them.
            return ConversationMessage("system", text, media=media)


def _calls(message: AIMessage) -> tuple[CalledTool, ...]:
    made = [CalledTool(one["id"] or "", one["name"], one["args"]) for one in message.tool_calls]
    made += [
        CalledTool(one["id"] or "", one["name"] or "", one["args"] or "")
        for one in message.invalid_tool_calls
    ]
    return tuple(made)


def _media(message: AnyMessage) -> tuple[str, ...]:
    if isinstance(message.content, str):
        return ()
    held = [block for block in message.content if is_media(block)]
    return tuple(label["text"] for label in labelled_content(held))
