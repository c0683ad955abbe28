"""How much a model reads and writes in one call, as far as it is known before it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import structlog
from langchain_core.language_models.chat_models import BaseChatModel

from millstream.agents.models.known.profiles import Profile, profile_of
from millstream.agents.models.local.engine import EngineSettings
from millstream.agents.models.local.model import LOCAL_MODEL_NAME
from millstream.agents.models.reports import is_count
from millstream.schemas.endpoints import ModelEndpoint, without_client
from millstream.schemas.reasons import words_of

__all__ = ["UNKNOWN_WINDOW", "Window", "WindowOf", "window_of", "windows_of_own"]

_NAMES_CACHED_MAX: Final = 4096
_NAME_CHARS_MAX: Final = 256
_LIMIT_OF_A_LOOK: Final = 256

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Window:
    """What a model takes in one call, in tokens; `None` is not known.

    Attributes:
        context_tokens: Of all that it reads, or of that and what it writes, as its provider counts.
        output_tokens: The most that it writes.
    """

    context_tokens: int | None = None
    output_tokens: int | None = None


WindowOf = Callable[[str], Window]
"""Gives the window of a model by its name."""

UNKNOWN_WINDOW: Final = Window()

_NO_WINDOWS: Final[Mapping[str, Window]] = MappingProxyType({})
_NO_ENDPOINTS: Final[Mapping[str, ModelEndpoint]] = MappingProxyType({})


def window_of(
    name: str,
    *,
    endpoints: Mapping[str, ModelEndpoint] = _NO_ENDPOINTS,
    own: Mapping[str, Window] = _NO_WINDOWS,
) -> Window:
    """Give the window of the model that `resolve_model` gives for this name; nothing is called.

    Of an app's `own` models it is what their profiles say, of an endpoint what is declared of it,
    of a `provider:model` what LangChain's profile of it says, else the context of `genai-prices`.
    """
    if (mine := own.get(name)) is not None:
        return mine
    endpoint = endpoints.get(name) or endpoints.get(name.partition(":")[0])
    if endpoint is not None:
        return Window(endpoint.context_tokens_max, endpoint.output_tokens_max)
    return _published(without_client(name))


def windows_of_own(models: Mapping[str, Callable[..., BaseChatModel]]) -> Mapping[str, Window]:
    """Give the windows of an app's own models: each is made once, and its profile read."""
    return {name: _of_made(name, make) for name, make in models.items()}


def _of_made(name: str, make: Callable[..., Any]) -> Window:
    try:
        made = make(max_tokens=_LIMIT_OF_A_LOOK)
    # Whatever an app's function does, it fails the runs that need its model, and says so there.
    except Exception as error:  # noqa: BLE001
        _log.info("the context of a model is not known", model=name, reason=words_of(error))
        return UNKNOWN_WINDOW
    return _of_profile(getattr(made, "profile", None) or {})


def _of_profile(profile: Profile) -> Window:
    return Window(_count(profile.get("max_input_tokens")), _count(profile.get("max_output_tokens")))


def _count(value: object) -> int | None:
    return value if is_count(value) and value else None


# A request may name any model.
@lru_cache(_NAMES_CACHED_MAX)
def _published(name: str) -> Window:
    provider, _, model = name.partition(":")
    if name in {"local", "local:smollm2", f"local:{LOCAL_MODEL_NAME}"}:
        return Window(EngineSettings().context_tokens_max)
    if not model or len(name) > _NAME_CHARS_MAX:
        return UNKNOWN_WINDOW
    found = _of_profile(profile_of(name))
    if found.context_tokens is not None:
        return found
    return Window(_in_prices(provider, model), found.output_tokens)


def _in_prices(provider_name: str, model: str) -> int | None:
    # They take 0.1 to 0.4 s and 30 to 70 MB, which a deployment with local models never needs.
    from genai_prices.data import providers  # noqa: PLC0415
    from genai_prices.data_snapshot import find_provider_by_id  # noqa: PLC0415

    # Not through the package's own snapshot: that one remembers every name it was ever asked for.
    provider = find_provider_by_id(providers, provider_name)
    info = None if provider is None else provider.find_model(model, all_providers=providers)
    return None if info is None else _count(info.context_window)
