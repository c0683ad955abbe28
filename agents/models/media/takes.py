"""Which kinds of content a model takes, known before it is called.

A provider's refusal names no field, and some servers pass over an image without a word. So a model
is told only of what it is known to take: by the profile that LangChain has of it or that an app
gives its own model, by the `inputs` of an endpoint, by OpenAI's names. Nothing known: text.

A URL goes to a provider that fetches it itself. Clients that would fetch it from here, as Google's
does, get none: a request could have a worker call any address that it can reach
(langchain's GHSA-2g6r-c272-w58r, one-api#2388).
"""

from __future__ import annotations

import re
from typing import Any, Final

from langchain_core.language_models import ModelProfile
from langchain_core.language_models.chat_models import BaseChatModel

from millstream.agents.models.local.model import LocalChatModel
from millstream.agents.models.scripted.model import ScriptedChatModel
from millstream.schemas.content import (
    INPUT_KINDS,
    ContentBlock,
    InputKind,
    TextContent,
)
from millstream.schemas.runs.errors import ContentUnsupported

__all__ = ["check_takes", "profile_of_openai", "profile_with", "takes_of"]

_IN_PROFILE: Final[dict[InputKind, str]] = {
    "image": "image_inputs",
    "image_url": "image_url_inputs",
    "pdf": "pdf_inputs",
    "audio": "audio_inputs",
}

# By the name of the class, or of one that it is built on: LangChain's packages may be missing.
_PASS_URLS_ON: Final = frozenset({"OpenAiChatModel", "BaseChatOpenAI", "ChatAnthropic"})
_TAKES_URLS_OF_FILES: Final = frozenset({"ChatAnthropic"})

_SEES: Final = re.compile(r"chatgpt-4o|gpt-4o|gpt-4\.1|gpt-4-turbo|gpt-[5-9]|o1|o3|o4-mini")
_BLIND: Final = re.compile(
    r"o1-mini|o1-preview|o3-mini|audio|realtime|transcribe|tts|search|codex|chat-latest"
)

_NAMES: Final[dict[InputKind, str]] = {
    "image": "images",
    "image_url": "images by URL",
    "pdf": "PDF files",
    "file": "files of this type",
    "file_url": "files by URL",
    "audio": "recordings",
}


def takes_of(model: BaseChatModel) -> frozenset[InputKind]:
    """Give what a model takes beside text."""
    if isinstance(model, ScriptedChatModel):
        return INPUT_KINDS
    if isinstance(model, LocalChatModel):
        return frozenset()
    profile: Any = model.profile or {}
    taken = {kind for kind, name in _IN_PROFILE.items() if profile.get(name) is True}
    classes = {each.__name__ for each in type(model).__mro__}
    # Some profiles say of a blind model that it takes images by URL.
    if "image" not in taken or classes.isdisjoint(_PASS_URLS_ON):
        taken.discard("image_url")
    if "pdf" in taken and not classes.isdisjoint(_TAKES_URLS_OF_FILES):
        taken.add("file_url")
    return frozenset(taken)


def check_takes(model: str, taken: frozenset[InputKind], content: tuple[ContentBlock, ...]) -> None:
    """Raise `ContentUnsupported` where a model does not take all of it; says what to do."""
    lacking = [
        kind
        for block in content
        if not isinstance(block, TextContent) and (kind := block.needs) and kind not in taken
    ]
    if not lacking:
        return
    names = " and ".join(_NAMES[kind] for kind in dict.fromkeys(lacking))
    message = f"the model {model!r} takes no {names}, as far as is known"
    if set(lacking) <= {"image_url", "file_url"} and taken & {"image", "pdf"}:
        message += "; give the data itself, as `base64`"
    else:
        message += "; name a model that does, or say that it does (docs/how-to/input.md)"
    raise ContentUnsupported(message)


def profile_of_openai(model: str) -> ModelProfile:
    """Give what OpenAI's model of this name takes; nothing of a name that is not known."""
    sees = _SEES.match(model) is not None and _BLIND.search(model) is None
    if not sees:
        return {}
    return {"image_inputs": True, "image_url_inputs": True, "pdf_inputs": True}


def profile_with(inputs: frozenset[InputKind]) -> ModelProfile:
    """Give the profile of a model that takes these kinds."""
    profile: Any = {name: True for kind, name in _IN_PROFILE.items() if kind in inputs}
    return profile  # type: ignore[no-any-return]
