"""From the middlewares that a template names to LangChain's, in its order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never

from langchain.agents.middleware import (
    AgentMiddleware,
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    LLMToolSelectorMiddleware,
    ModelCallLimitMiddleware,
    PIIMiddleware,
    TodoListMiddleware,
    ToolCallLimitMiddleware,
)
from langchain_core.language_models.chat_models import BaseChatModel

from millstream.agents.middlewares.beside import BesideModel
from millstream.agents.templates.named_middlewares import (
    BUILT_IN_MIDDLEWARES,
    REFUSED,
    ContextEditing,
    ModelCallLimit,
    OwnMiddleware,
    Pii,
    TodoList,
    ToolCallLimit,
    ToolSelector,
)
from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.errors import Misconfigured
from millstream.schemas.reasons import words_of

__all__ = [
    "SELECTOR_TOKENS_MAX",
    "MiddlewareFactory",
    "build_middlewares",
    "check_names",
    "own_middlewares",
]

SELECTOR_TOKENS_MAX: Final = 256
"""The most tokens that a choice of tools may take."""

MiddlewareFactory = Callable[..., AgentMiddleware[Any, Any, Any]]
"""Makes one of an app's middlewares from a template's parameters."""

_Resolve = Callable[[str | None, int], BaseChatModel]


def check_names(own: Mapping[str, MiddlewareFactory]) -> Mapping[str, MiddlewareFactory]:
    """Give an app's middlewares. Raises `Misconfigured` where one has a name of LangChain's."""
    taken = sorted(own.keys() & {*BUILT_IN_MIDDLEWARES, *REFUSED})
    if taken:
        raise Misconfigured(
            f"the name of the app's middleware {taken[0]!r} is taken by LangChain's: rename it"
        )
    return own


def own_middlewares(
    template: AgentTemplate, own: Mapping[str, MiddlewareFactory]
) -> list[AgentMiddleware[Any, Any, Any]]:
    """Make those of an app that a template names.

    Raises `Misconfigured` where none has a name, or its factory does not take the parameters or
    gives something else.
    """
    named = [one for one in template.middlewares if isinstance(one, OwnMiddleware)]
    return [_own(template, one, own) for one in named]


def build_middlewares(
    template: AgentTemplate,
    own: Mapping[str, MiddlewareFactory],
    resolve: _Resolve,
) -> list[AgentMiddleware[Any, Any, Any]]:
    """Make a template's middlewares. `resolve` gives the model of a name, with a limit of tokens.

    Raises `Misconfigured` as `own_middlewares` does, and `ModelUnavailable` as `resolve` does.
    """
    built = []
    for named in template.middlewares:
        if isinstance(named, OwnMiddleware):
            built.append(_own(template, named, own))
        else:
            built.append(_built_in(named, resolve))
    return built


def _built_in(
    named: Pii | ToolCallLimit | ModelCallLimit | ContextEditing | ToolSelector | TodoList,
    resolve: _Resolve,
) -> AgentMiddleware[Any, Any, Any]:
    given: dict[str, Any] = named.params.model_dump(exclude_none=True)
    match named:
        case Pii():
            return PIIMiddleware(given.pop("pii_type"), **given)
        case ToolCallLimit():
            return ToolCallLimitMiddleware(**given)
        case ModelCallLimit():
            return ModelCallLimitMiddleware(**given)
        case ContextEditing():
            return ContextEditingMiddleware(edits=[ClearToolUsesEdit(**given)])
        case ToolSelector():
            model = resolve(named.params.model, SELECTOR_TOKENS_MAX)
            given["model"] = BesideModel(model=model, named=named.params.model)
            given["always_include"] = list(named.params.always_include)
            # Without a choice all tools are offered: a run is not failed by what is to help it.
            return LLMToolSelectorMiddleware(**given, max_retries=0, on_parsing_failure="all")
        case TodoList():
            return TodoListMiddleware(**given)
        case _:
            assert_never(named)


def _own(
    template: AgentTemplate, named: OwnMiddleware, own: Mapping[str, MiddlewareFactory]
) -> AgentMiddleware[Any, Any, Any]:
    make = own.get(named.name)
    who = f"template {template.name!r}: the middleware {named.name!r}"
    if make is None:
        known = ", ".join(sorted({*BUILT_IN_MIDDLEWARES, *own}))
        raise Misconfigured(f"{who} is unknown; known: {known}")
    try:
        made = make(**named.params)
    # Whatever a factory of somebody's own does, it is that template's mistake.
    except Exception as error:
        why = f"{type(error).__name__}: {words_of(error)}"
        raise Misconfigured(f"{who} cannot be made with its parameters: {why}") from error
    if not isinstance(made, AgentMiddleware):
        raise Misconfigured(
            f"{who}: its factory gives {type(made).__name__}, not LangChain's `AgentMiddleware`"
        )
    return made
