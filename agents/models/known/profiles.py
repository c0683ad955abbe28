"""What LangChain's package of a provider has of its models, read without importing the package.

Each such package has its models' profiles, by name, in a module of its own (`data/_profiles.py`),
made from models.dev (https://docs.langchain.com/oss/python/langchain/models). To import the package
takes a second, and to make its model takes a key; to read that module takes neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import structlog
from langchain.chat_models.base import _BUILTIN_PROVIDERS

from millstream.schemas.endpoints import without_client

__all__ = ["NO_PROFILE", "Profile", "profile_of"]

Profile = Mapping[str, Any]
"""Facts by the names of LangChain's `ModelProfile`; what is not known is not in it."""

NO_PROFILE: Final[Profile] = MappingProxyType({})

_OPENAI: Final = "openai"
# Where LangChain's package is not installed, whose profiles say so: by OpenAI's names.
_REASONS: Final = re.compile(r"o\d|gpt-[5-9](?!.*chat)|gpt-oss")
_REASONS_NEVER: Final = re.compile(r"gpt-3\.5|gpt-4|chatgpt-4o")

_log = structlog.get_logger(__name__)


def profile_of(name: str) -> Profile:
    """Give what is published of the model `provider:model`; nothing where nothing is known."""
    provider, _, model = without_client(name).partition(":")
    if provider not in _BUILTIN_PROVIDERS:
        return NO_PROFILE
    found: Profile = _published(_BUILTIN_PROVIDERS[provider][0].partition(".")[0]).get(
        model, NO_PROFILE
    )
    if provider != _OPENAI or "reasoning_output" in found:
        return found
    if _REASONS.match(model) is not None:
        return {**found, "reasoning_output": True}
    if _REASONS_NEVER.match(model) is not None:
        return {**found, "reasoning_output": False}
    return found


@cache
def _published(package: str) -> Mapping[str, Profile]:
    found = find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, "data", "_profiles.py")
        spec = spec_from_file_location(f"_profiles_of_{package}", path)
        if not path.is_file() or spec is None or spec.loader is None:
            continue
        try:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            return dict(module._PROFILES)  # noqa: SLF001
        # It is no part of the package's interface: without it, less is known.
        except (ImportError, SyntaxError, AttributeError, TypeError, ValueError) as error:
            _log.warning("profiles of models cannot be read", package=package, reason=repr(error))
    return {}
