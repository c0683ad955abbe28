"""How models are named, and where one is served that is no provider's."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field

from millstream.schemas.base import Frozen

__all__ = ["BY_LANGCHAIN", "ModelEndpoint", "without_client"]

BY_LANGCHAIN: Final = "langchain"
"""Before a name and a colon: it is LangChain's class that is wanted to call the model."""


def without_client(name: str) -> str:
    """Give a model's name, whichever client is to call it."""
    return name.removeprefix(f"{BY_LANGCHAIN}:")


def _is_of_http(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        message = "it must be an address that begins with http:// or https://"
        raise ValueError(message)
    return url


class ModelEndpoint(Frozen):
    """A server that speaks OpenAI's chat completions.

    `base_url` is what OpenAI's clients call so: it ends before `/chat/completions`. `key_variable`
    is the name of the environment variable that holds the key; none given: it wants none. `inputs`
    is what its models take beside text: `image`, `image_url`, `pdf`, `audio`.
    `context_tokens_max` is how much they read and write in one call, `output_tokens_max` how much
    of that they write at most: templates that name no numbers of their own follow these.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: Annotated[str, AfterValidator(_is_of_http)]
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    inputs: frozenset[Literal["image", "image_url", "pdf", "audio"]] = frozenset()
    context_tokens_max: Annotated[int, Field(ge=256)] | None = None
    output_tokens_max: Annotated[int, Field(ge=1)] | None = None
