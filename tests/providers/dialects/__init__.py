"""How each kind of provider speaks: where it listens, how it frames events, and short forms."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tests.providers.dialects import anthropic, gemini, ollama, openai_chat, openai_responses
from tests.providers.dialects.dialect import Dialect

__all__ = ["DIALECTS", "Dialect"]

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        "/chat/completions": openai_chat.DIALECT,
        "/responses": openai_responses.DIALECT,
        "/v1/messages": anthropic.DIALECT,
        "/v1beta/models/{rest:.*}": gemini.DIALECT,
        "/api/chat": ollama.DIALECT,
    }
)
"""By the path under the base URL, at which each one's own client asks."""
