"""What is sent: a conversation and the options of a call, as chat completions have them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import orjson
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_data_block,
    is_data_content_block,
)

from millstream.agents.models.media.labels import is_media, labelled_content
from millstream.schemas.content import ImageContent, block_of

__all__ = ["body_of", "told_messages"]

# What an assistant's message may hold; the rest is what other providers' models say besides: their
# thoughts, with signatures that are no use here, and calls, which stand in `tool_calls` as well.
_OF_ASSISTANT: Final = frozenset({"text", "refusal"})
# As LangChain's class leaves them out of any message.
_LEFT_OUT: Final = frozenset(
    {"tool_use", "thinking", "reasoning_content", "function_call", "code_interpreter_call"}
)
_OF_CALL: Final = ("id", "type", "function")
_CALL_ID_CHARS_MAX: Final = 40
"""OpenAI's bound; vLLM gives ids of 46 characters, Gemini some with a signature of a thousand."""


def body_of(payload: Mapping[str, Any]) -> bytes:
    """Give a request's body as JSON, also with halves of characters and integers of any size."""
    try:
        return orjson.dumps(payload, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        return json.dumps(payload).encode()


def told_messages(
    messages: Iterable[BaseMessage], system_role: str, *, sees: bool = False
) -> list[dict[str, Any]]:
    """Give a conversation; `system_role` is what the server calls the role of system messages.

    Images that tools gave follow the results in a message of the user, if the model `sees` any: in
    a tool's result the whole conversation is refused for them, then and in all later turns
    (OpenHands#7700, zeroclaw#10501). Raises `TypeError` for a message of a kind that chat
    completions do not have.
    """
    told: list[dict[str, Any]] = []
    images: list[Any] = []
    for each in messages:
        if images and not isinstance(each, ToolMessage):
            told.append({"role": "user", "content": images})
            images = []
        told.append(_told(each, system_role))
        if sees and isinstance(each, ToolMessage):
            images += _images_of(each)
    return [*told, {"role": "user", "content": images}] if images else told


def _images_of(result: ToolMessage) -> list[Any]:
    if isinstance(result.content, str):
        return []
    images = [told for block in result.content if (told := _image_of(block)) is not None]
    words = f"What {result.name or 'the tool'} gave:"
    return [{"type": "text", "text": words}, *images] if images else []


def _image_of(block: Any) -> Any:
    """Give an image of a tool, `None` of what is none, or none that a request might hold."""
    if not is_media(block):
        return None
    is_known = isinstance(block_of(block), ImageContent)
    if is_known or block["type"] == "image_url" or isinstance(block.get("source"), Mapping):
        return _block(block)
    return None


def _told(message: BaseMessage, system_role: str) -> dict[str, Any]:
    if isinstance(message, ToolMessage):
        return {
            "role": "tool",
            "tool_call_id": _call_id(message.tool_call_id),
            "content": _plain_texts(_content(labelled_content(message.content))),
        }
    told: dict[str, Any] = {"role": _role(message, system_role)}
    if isinstance(message, AIMessage):
        told |= _of_assistant(message)
    else:
        told["content"] = _content(message.content)
    if (name := message.name or message.additional_kwargs.get("name")) is not None:
        told["name"] = name
    return told


def _role(message: BaseMessage, system_role: str) -> str:
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, AIMessage):
        return "assistant"
    if isinstance(message, SystemMessage):
        own: str = message.additional_kwargs.get("__openai_role__", "system")
        return system_role if own == "system" else own
    if isinstance(message, ChatMessage):
        return message.role
    if isinstance(message, FunctionMessage):
        return "function"
    message_of = f"chat completions have no message of the kind {message.type!r}"
    raise TypeError(message_of)


def _of_assistant(message: AIMessage) -> dict[str, Any]:
    content = message.content
    if not isinstance(content, str):
        content = [
            {key: value for key, value in block.items() if key in {"type", "text", "refusal"}}
            for block in map(_as_block, content)
            if block.get("type") in _OF_ASSISTANT
        ]
    extra = message.additional_kwargs
    told: dict[str, Any] = {"content": content}
    if message.tool_calls or message.invalid_tool_calls:
        told["tool_calls"] = [
            *(_call(one, _arguments(one["args"])) for one in message.tool_calls),
            *(_call(one, one["args"]) for one in message.invalid_tool_calls),
        ]
    elif "tool_calls" in extra:
        told["tool_calls"] = [
            {key: call[key] for key in _OF_CALL if key in call} | {"id": _call_id(call.get("id"))}
            for call in extra["tool_calls"]
        ]
    elif "function_call" in extra:
        told["function_call"] = extra["function_call"]
    if "tool_calls" in told or "function_call" in told:
        told["content"] = content or None
    if (audio := _audio(message)) is not None:
        told["audio"] = audio
    return told


def _call(call: Mapping[str, Any], arguments: str | None) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": arguments}
    return {"type": "function", "id": _call_id(call["id"]), "function": function}


def _call_id(given: Any) -> Any:
    """Give an id as OpenAI takes it: one that another model gave may be longer.

    It is the same for the call and for its answer (vercel/ai's issue 5171, camel's issue 2215).
    """
    if not isinstance(given, str) or len(given) <= _CALL_ID_CHARS_MAX:
        return given
    return f"call_{sha256(given.encode(errors='replace')).hexdigest()[:32]}"


def _arguments(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def _audio(message: AIMessage) -> Any:
    # Of earlier audio only the id may be sent.
    for block in message.content:
        if isinstance(block, Mapping) and block.get("type") == "audio" and block.get("id"):
            return {"id": block["id"]}
    audio = message.additional_kwargs.get("audio")
    return {"id": audio["id"]} if isinstance(audio, Mapping) and "id" in audio else audio


def _content(content: str | Sequence[Any]) -> Any:
    if isinstance(content, str):
        return content
    return [told for block in content if (told := _block(_as_block(block))) is not None]


def _as_block(block: Any) -> Any:
    # An answer that came in blocks may go on with text alone (Mistral), which is none in a request.
    return {"type": "text", "text": block} if isinstance(block, str) else block


def _block(block: Any) -> Any:
    if not isinstance(block, dict) or "type" not in block:
        return block
    if block["type"] in _LEFT_OUT:
        return None
    if is_data_content_block(block):
        return convert_to_openai_data_block(block, api="chat/completions")
    source = block.get("source")
    if block["type"] == "image" and isinstance(source, Mapping):
        return _image(source)
    return block


def _image(source: Mapping[str, Any]) -> Any:
    """Give an image that stands as Anthropic has them."""
    url = source.get("url") if source.get("type") == "url" else None
    if source.get("type") == "base64" and source.get("media_type") and source.get("data"):
        url = f"data:{source['media_type']};base64,{source['data']}"
    return None if not url else {"type": "image_url", "image_url": {"url": url}}


def _plain_texts(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": block["text"]}
        if isinstance(block, Mapping) and block.get("type") == "text" and "text" in block
        else block
        for block in content
    ]
