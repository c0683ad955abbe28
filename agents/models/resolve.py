"""From the name of a model in a template or request to a LangChain chat model."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import langsmith
import structlog
from langchain.chat_models import init_chat_model
from langchain.chat_models.base import _BUILTIN_PROVIDERS
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.utils import secret_from_env
from pydantic import SecretStr

from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.known.profiles import NO_PROFILE, profile_of
from millstream.agents.models.known.unseen import SHOWN, shown_by
from millstream.agents.models.local.model import LOCAL_MODEL_NAME, LocalChatModel
from millstream.agents.models.media.takes import profile_of_openai, profile_with
from millstream.agents.models.openai.model import (
    KEY_VARIABLE,
    OpenAiChatModel,
    speaks_responses,
)
from millstream.agents.models.scripted.model import SCRIPTED_MODEL_NAME, ScriptedChatModel
from millstream.agents.models.scripted.script import parse_script
from millstream.agents.models.served import as_served
from millstream.schemas.endpoints import BY_LANGCHAIN, ModelEndpoint, without_client
from millstream.schemas.reasons import words_of
from millstream.schemas.runs.errors import ModelUnavailable

__all__ = [
    "MODEL_NAME",
    "MakeModel",
    "extra_of",
    "keep_traces_local",
    "provider_names",
    "resolve_model",
    "warm_up",
]

MODEL_NAME: Final = "millstream_model"
"""In a model's metadata, which its callbacks get: the name that it was resolved by."""

_log = structlog.get_logger(__name__)

MakeModel = Callable[..., BaseChatModel]
"""Makes a chat model of keyword parameters, such as `max_tokens`."""

NO_MODELS: Final[Mapping[str, MakeModel]] = MappingProxyType({})

NO_ENDPOINTS: Final[Mapping[str, ModelEndpoint]] = MappingProxyType({})

_OPENAI: Final = "openai"

_LOCAL_NAMES: Final = frozenset({"local", "local:smollm2", f"local:{LOCAL_MODEL_NAME}"})


@dataclass(frozen=True, slots=True)
class _Provider:
    """What a provider needs: a variable with its key, and the error its client raises without.

    `max_retries` tells its client, which makes a failed call again by itself, not to; `None`: it
    does not. `limit` is what its class calls the limit of an answer's tokens.
    """

    key_variable: str | None = None
    client_error: str | None = None
    max_retries: int | None = None
    limit: str = "max_tokens"


# Any other provider that LangChain knows works as well.
_PROVIDERS: Final[Mapping[str, _Provider]] = MappingProxyType(
    {
        "anthropic": _Provider("ANTHROPIC_API_KEY", "anthropic.AnthropicError", max_retries=0),
        "cohere": _Provider("COHERE_API_KEY"),
        "deepseek": _Provider("DEEPSEEK_API_KEY", "openai.OpenAIError", max_retries=0),
        "fireworks": _Provider("FIREWORKS_API_KEY"),
        # Of Google's client, the first call counts.
        "google_genai": _Provider("GOOGLE_API_KEY", max_retries=1),
        "groq": _Provider("GROQ_API_KEY", "groq.GroqError", max_retries=0),
        "mistralai": _Provider("MISTRAL_API_KEY", max_retries=0),
        "ollama": _Provider(limit="num_predict"),
        "openai": _Provider("OPENAI_API_KEY", "openai.OpenAIError", max_retries=0),
        "together": _Provider("TOGETHER_API_KEY", "openai.OpenAIError", max_retries=0),
        "xai": _Provider("XAI_API_KEY", "openai.OpenAIError", max_retries=0),
    }
)

_EXTRAS: Final[Mapping[str, str]] = MappingProxyType({"google_genai": "google"})
"""Extras of `pyproject.toml` whose names are not their provider's."""

_IS_CHECKOUT: Final = (Path(__file__).resolve().parents[2] / "src" / "millstream").is_dir()


class UnknownProvider(ModelUnavailable):
    """No provider has this name."""

    def __init__(self, provider: str) -> None:
        super().__init__(f"no provider is called {provider!r}")
        self.provider = provider


def resolve_model(
    name: str,
    *,
    http: ProviderHttp | None = None,
    endpoints: Mapping[str, ModelEndpoint] = NO_ENDPOINTS,
    own: Mapping[str, MakeModel] = NO_MODELS,
    scripted: bool = True,
    **params: Any,
) -> BaseChatModel:
    """Return the chat model that `name` stands for, made with `params` (`temperature`, …).

    A provider is called through `http`, if given, else as its own client does by default.
    `endpoints` are servers that speak OpenAI's chat completions, by a whole name or by what stands
    before its colon; they come before everything else. But for `own`, which makes an app's models,
    by their whole names.

    `local` or `local:smollm2` is the model that comes with Millstream; all share one engine.
    `scripted` plays the cues in its input, `scripted:SCRIPT` the given ones (see the module
    `scripted.script`), where `scripted` is true: workers say so by their settings, since whoever
    writes the input then says which tools are called.
    `openai:model` is spoken to by a client of our own, over chat completions; where it has to be
    another of OpenAI's dialects, and for `langchain:openai:model`, by LangChain's.
    Anything else is `provider:model` for LangChain's `init_chat_model`, with the provider's own
    package and key.

    Raises `ModelUnavailable`, saying which name is unknown, which package to install or which
    variable to set, and `Terminal` for a script that cannot be read.
    """
    endpoint = endpoints.get(name) or endpoints.get(name.partition(":")[0])
    published = NO_PROFILE
    if (make := own.get(name)) is not None:
        model = _own(name, make, params)
    elif endpoint is not None:
        model = _at_endpoint(name, endpoint, http, params)
    else:
        try:
            model = _model(name, http, params, scripted=scripted)
            published = profile_of(name)
        except UnknownProvider as error:
            named = [each.partition(":")[0] for each in (*own, *endpoints)]
            told = _unknown_provider(error.provider, named)
            message = f"the model {name!r} cannot be used: {told}"
            raise ModelUnavailable(message) from error
    # By which its calls are charged, whoever makes them.
    known = {MODEL_NAME: name, SHOWN: shown_by(model, published)}
    model.metadata = {**(model.metadata or {}), **known}
    return model


def _model(
    name: str, http: ProviderHttp | None, params: dict[str, Any], *, scripted: bool
) -> BaseChatModel:
    if name in _LOCAL_NAMES:
        return LocalChatModel(**params)
    kind, _, rest = name.partition(":")
    if kind == SCRIPTED_MODEL_NAME and not scripted:
        message = (
            f"the model {name!r} is for tests only, since its input says which tools it calls: "
            "where anybody who asks may do that, set MILLSTREAM_SCRIPTED_MODEL=on on the workers"
        )
        raise ModelUnavailable(message)
    if kind == SCRIPTED_MODEL_NAME:
        return ScriptedChatModel(script=parse_script(rest) if rest.strip() else None, **params)
    if kind == "local" or not rest:
        message = (
            f"no model is called {name!r}: use `local` or `provider:model`, "
            "for instance `openai:gpt-5-mini`"
        )
        raise ModelUnavailable(message)
    if kind == _OPENAI and not speaks_responses(rest, params):
        profile = params.get("profile") or profile_of_openai(rest)
        return _own_client(name, {**params, "model": rest, "profile": profile}, http, KEY_VARIABLE)
    return _langchains(without_client(name), http, params)


def _own(name: str, make: MakeModel, params: dict[str, Any]) -> BaseChatModel:
    try:
        model: object = make(**params)
    except Exception as error:
        words = f"{type(error).__name__}: {words_of(error)}"
        raise ModelUnavailable(f"the app's model {name!r} cannot be made: {words}") from error
    if isinstance(model, BaseChatModel):
        return model
    kind = type(model).__name__
    raise ModelUnavailable(f"the app's model {name!r} is a {kind}, not a chat model of LangChain's")


def _at_endpoint(
    name: str, endpoint: ModelEndpoint, http: ProviderHttp | None, params: dict[str, Any]
) -> BaseChatModel:
    served = name.partition(":")[2]
    if not served:
        message = f"the model {name!r} needs the name by which its server knows it: `{name}:NAME`"
        raise ModelUnavailable(message)
    variable = endpoint.key_variable
    key = SecretStr("") if variable is None else secret_from_env(variable, default="")()
    # What the environment has for OpenAI is not this server's to know.
    given = {**params, "base_url": endpoint.base_url, "api_key": key}
    given |= {"organization": "", "project": "", "model": served}
    given["profile"] = profile_with(endpoint.inputs)
    return _own_client(name, given, http, variable)


def _langchains(name: str, http: ProviderHttp | None, params: dict[str, Any]) -> BaseChatModel:
    """Give a model of LangChain's package for its provider, as it is served."""
    kind = name.partition(":")[0]
    if http is not None:
        params |= http.params(kind)
    provider = _PROVIDERS.get(kind)
    limit = params.get("max_tokens")
    if provider is not None:
        if provider.max_retries is not None:
            # The lane tries again, by its template's policy, and counts what each attempt costs.
            params.setdefault("max_retries", provider.max_retries)
        if "max_tokens" in params:
            params[provider.limit] = params.pop("max_tokens")
    model = _provided_model(name, kind, params)
    if limit is not None and not _takes(model, provider.limit if provider else "max_tokens"):
        _log.warning("a limit of tokens does not reach a model's provider", model=name)
    if http is not None:
        http.adopt(model, kind)
    return as_served(model, limit)


def _own_client(
    name: str, params: Mapping[str, Any], http: ProviderHttp | None, key_variable: str | None
) -> BaseChatModel:
    """Give a model by our own client, with a key that fits into a header, if it wants one."""
    connections = None if http is None else http.connections
    try:
        made = OpenAiChatModel(**{**params, "connections": connections})
    except ValueError as error:
        raise ModelUnavailable(f"the model {name!r} cannot be used: {error}") from error
    # Keys of files often end with their line.
    key = "" if made.api_key is None else made.api_key.get_secret_value().strip()
    if key_variable is not None and not key:
        raise _without_key(name, key_variable)
    if not key.isprintable() or not key.isascii():
        message = f"the model {name!r} cannot be used: its key holds what no key can, a line's end"
        raise ModelUnavailable(f"{message} for instance")
    if key and "@" in urlsplit(made.base_url).netloc:
        message = f"the model {name!r} cannot be used: it has a key, and its address another"
        raise ModelUnavailable(message)
    return made


def _without_key(name: str, variable: str) -> ModelUnavailable:
    message = f"the model {name!r} cannot be used: its key is missing (set {variable})"
    return ModelUnavailable(message)


def provider_names(own: Iterable[str] = ()) -> frozenset[str]:
    """Give what may stand before the colon of a model's name, `own` ones among them."""
    ours = {*_BUILTIN_PROVIDERS, "local", SCRIPTED_MODEL_NAME, BY_LANGCHAIN}
    return frozenset(ours | {name.partition(":")[0] for name in own})


async def warm_up(name: str, resolve: Callable[[str], BaseChatModel] = resolve_model) -> None:
    """Load what the model of this name needs, so that its first answer does not wait for it.

    Raises `ModelUnavailable` as `resolve_model` does: better at a worker's start than later.
    """
    model = resolve(name)
    if isinstance(model, LocalChatModel):
        await model.warm_up()


def keep_traces_local() -> None:
    """Keep LangSmith from sending conversations to its service, whatever the environment says.

    The variable that turns it on is often set for other projects on the same machine; here it
    would publish every user's prompts. For the composition root to call, once per process.
    """
    langsmith.configure(enabled=False)
    langsmith.set_runtime_overrides(aio_to_thread=_here)


async def _here(
    _default: object,
    context: Context,
    function: Callable[..., Any],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Have LangSmith do at once what it does around each call of a middleware.

    It takes two threads and a task for that, also where nothing is traced: a fifth of the CPU of a
    run with tools (`make bench ARGS="--only executor"`).
    """
    return context.run(function, *args, **kwargs)


def _provided_model(name: str, provider: str, params: Mapping[str, Any]) -> BaseChatModel:
    # Without this LangChain takes the whole for a model's name, and guesses whose it is.
    if provider not in _BUILTIN_PROVIDERS:
        raise UnknownProvider(provider)
    try:
        model: BaseChatModel = init_chat_model(name, **params)
    except ImportError as error:
        raise ModelUnavailable(f"the model {name!r} {_lacking(provider, error)}") from error
    except _construction_errors(provider) as error:
        known = _PROVIDERS.get(provider)
        hint = f" (set {known.key_variable})" if known and known.key_variable else ""
        message = f"the model {name!r} cannot be used{hint}: {error}"
        raise ModelUnavailable(message) from error
    _require_key(model, name, provider)
    return model


def extra_of(provider: str) -> str | None:
    """Give the extra that brings a provider's package; `None` where Millstream has none for it."""
    package = _package(provider)
    known = next((each for each in _PROVIDERS if _package(each) == package), None)
    return None if known is None else _EXTRAS.get(known, known)


def _package(provider: str) -> str:
    return _BUILTIN_PROVIDERS[provider][0].partition(".")[0]


def _lacking(provider: str, error: ImportError, *, is_checkout: bool = _IS_CHECKOUT) -> str:
    """Say what a model lacks whose class cannot be imported, and which command installs it."""
    package = _package(provider)
    if find_spec(package) is not None:
        return f"cannot be used: what is installed of its package cannot be imported: {error}"
    extra = extra_of(provider)
    told = f"needs {package.replace('_', '-')}, which is not installed"
    if extra is None:
        beside = "docs/how-to/models.md says how to install it beside those that are locked"
        return f"{told}: {beside if is_checkout else error}"
    command = f"make setup EXTRAS={extra}" if is_checkout else f"pip install 'millstream[{extra}]'"
    return f"{told}: run `{command}`"


def _unknown_provider(provider: str, own: Sequence[str]) -> str:
    near = difflib.get_close_matches(
        provider.lower(), dict.fromkeys([*own, *_BUILTIN_PROVIDERS, "local", SCRIPTED_MODEL_NAME])
    )
    told = ", ".join(f"`{each}:`" for each in near or dict.fromkeys([*own, *sorted(_PROVIDERS)]))
    return f"no provider is called {provider!r}; {'names like it' if near else 'known are'}: {told}"


def _takes(model: BaseChatModel, name: str) -> bool:
    """Whether a class takes a parameter: many pass over one that they do not know."""
    fields = type(model).model_fields
    if name in fields or any(name == field.alias for field in fields.values()):
        return True
    return name in (getattr(model, "model_kwargs", None) or {})


def _require_key(model: BaseChatModel, name: str, provider: str) -> None:
    # Some classes take an empty key and fail only in their first call, with an error of the wire.
    for field, value in model:
        if field.endswith("api_key") and isinstance(value, SecretStr) and not value:
            known = _PROVIDERS.get(provider)
            variable = (known.key_variable if known else None) or field.upper()
            raise _without_key(name, variable)


def _construction_errors(provider: str) -> tuple[type[Exception], ...]:
    """Return what a provider's class raises without a key; pydantic's errors are ValueErrors."""
    known = _PROVIDERS.get(provider)
    if known is None or known.client_error is None:
        return (ValueError,)
    module, _, attribute = known.client_error.rpartition(".")
    # Evaluated only once an error is on its way, so the provider's package is imported by then.
    error: type[Exception] = getattr(importlib.import_module(module), attribute)
    return (ValueError, error)
