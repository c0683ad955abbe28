"""From a function or a LangChain tool to a tool that carries its rules.

All that is wrong with a function is told when it is declared, with its name, file and line: not by
a provider that refuses the schema, nor by the first call.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, overload

from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool
from langgraph.prebuilt import ToolRuntime
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from millstream.agents.tool_schemas import is_frameworks, with_checked_schema
from millstream.agents.tools.rules import Effect, Reconcile, ToolRules
from millstream.schemas.errors import Misconfigured
from millstream.schemas.reasons import words_of

__all__ = ["AnyTool", "as_tool", "declared", "place_of", "rules_of", "tool"]

AnyTool = BaseTool | Callable[..., Any]
"""A tool of LangChain's, or a plain function."""

# What OpenAI, Anthropic and Gemini all take.
_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")

# On the tool itself, where LangChain's and our copies of it keep it; never sent to a provider.
_RULES: Final = "millstream_rules"


@overload
def tool(function: Callable[..., Any], /) -> BaseTool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    effect: Effect = "ask_human",
    timeout_s: float | None = None,
    ends_run_on_error: bool = False,
    result_bytes_max: int | None = None,
    reconcile: Reconcile | None = None,
) -> Callable[[Callable[..., Any]], BaseTool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    **rules: Any,
) -> BaseTool | Callable[[Callable[..., Any]], BaseTool]:
    """Make a tool of a function, plain or asynchronous, with `ToolRules`; `@tool` or `@tool(…)`.

    Its name is the function's, its description the docstring, its arguments the parameters by
    their type hints. Raises `Misconfigured`, with the function's name, file and line.
    """

    def make(made_of: Callable[..., Any]) -> BaseTool:
        made = _of_function(made_of, name, description)
        return _with_rules(made, _rules(made, rules))

    return make if function is None else make(function)


def declared(
    of: BaseTool,
    *,
    effect: Effect = "ask_human",
    timeout_s: float | None = None,
    ends_run_on_error: bool = False,
    result_bytes_max: int | None = None,
    reconcile: Reconcile | None = None,
) -> BaseTool:
    """Give a copy of a tool that LangChain made, with `ToolRules`. Raises `Misconfigured`."""
    given: object = of
    if not isinstance(given, BaseTool):
        message = f"{given!r} is no LangChain tool: for a function, use @tool(…)"
        raise Misconfigured(message)
    rules = {
        "effect": effect,
        "timeout_s": timeout_s,
        "ends_run_on_error": ends_run_on_error,
        "result_bytes_max": result_bytes_max,
        "reconcile": reconcile,
    }
    return _with_rules(of.model_copy(), _rules(of, rules))


def as_tool(given: AnyTool) -> BaseTool:
    """Give a tool as LangChain has them. Raises `Misconfigured` for what is or makes none."""
    if not isinstance(given, BaseTool):
        return _of_function(given, None, None)
    for function in (getattr(given, "func", None), getattr(given, "coroutine", None)):
        if _is_generator(function):
            message = f"the tool {given.name!r} is a generator: have it return its whole result"
            raise Misconfigured(message + _at(given))
    return given


def rules_of(made: BaseTool) -> ToolRules | None:
    """Give the rules that a tool was declared with, `None`: it was not."""
    return getattr(made, _RULES, None)


def place_of(given: AnyTool) -> str:
    """Say where a tool is made: file and line of its function, else the class that it is of."""
    function: Any = given
    if isinstance(given, BaseTool):
        function = getattr(given, "func", None) or getattr(given, "coroutine", None)
    if hasattr(function, "__call__"):  # noqa: B004  unwrap needs no more
        function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None:
        kind = type(given)
        return f"of the class {kind.__module__}.{kind.__qualname__}"
    return f"{_shown(code.co_filename)}:{code.co_firstlineno}"


def _rules(made: BaseTool, given: dict[str, Any]) -> ToolRules:
    try:
        return ToolRules(**given)
    except Misconfigured as error:
        message = f"the tool {made.name!r}: {error}"
        raise Misconfigured(message + _at(made)) from error


def _with_rules(made: BaseTool, rules: ToolRules) -> BaseTool:
    object.__setattr__(made, _RULES, rules)
    return made


def _of_function(function: Any, name: str | None, description: str | None) -> BaseTool:
    if isinstance(function, type) or not (
        inspect.isfunction(function) or inspect.ismethod(function)
    ):
        message = f"{function!r} is no tool: give a function, or a tool that LangChain made"
        if callable(function) and not isinstance(function, type):
            message += "; write a function with type hints and a docstring that calls it"
        raise Misconfigured(message)
    called = name or function.__name__
    where = f" ({place_of(function)})"
    if _NAME.fullmatch(called) is None:
        message = (
            f"a tool cannot be called {called!r}{where}: models take letters, digits, _ and -, up "
            "to 64, and no digit first; say @tool(name=…)"
        )
        raise Misconfigured(message)
    why: str | None
    if _is_generator(function):
        why = "is a generator: have it return its whole result"
    elif not (description or inspect.getdoc(function) or "").strip():
        why = "has no docstring: say in one what it does, which is what the model goes by"
    else:
        why = _wrong_parameter(function)
    if why is not None:
        message = f"the tool {called!r} {why}{where}"
        raise Misconfigured(message)
    is_async = inspect.iscoroutinefunction(function)
    try:
        made = StructuredTool.from_function(
            func=None if is_async else function,
            coroutine=function if is_async else None,
            name=called,
            description=description,
            parse_docstring=True,
            error_on_invalid_docstring=False,
        )
        return with_checked_schema(made)
    except Misconfigured as error:
        raise Misconfigured(f"{error}{where}") from error
    except Exception as error:
        message = f"the tool {called!r} cannot be made: {words_of(error)}{where}"
        raise Misconfigured(message) from error


def _wrong_parameter(function: Callable[..., Any]) -> str | None:
    """Say which parameter a model could not be told of, and what to do; `None`: there is none."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # noqa: BLE001  whatever a hint's code raises
        return (
            f"has type hints that cannot be read ({words_of(error)}): import what they name at run "
            "time, at the top of the module, not under TYPE_CHECKING"
        )
    parameters = inspect.signature(function).parameters.values()
    found = (_wrong_in(parameter, hints) for parameter in parameters)
    return next((why for why in found if why is not None), None)


def _wrong_in(parameter: inspect.Parameter, hints: dict[str, Any]) -> str | None:
    name, hint = parameter.name, hints.get(parameter.name)
    if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
        return f"takes any number of arguments (*{name}): name each of them"
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return f"has the argument {name!r} by position only: drop the `/`"
    if is_frameworks(name, hint) or _is_injected(hint):
        return None
    why: str | None = None
    if name not in hints:
        why = f"has no type hint for {name!r}: say one, for instance `{name}: str`"
        if name == "self":
            why = "is a method without its object: give that of an object, `Shop().look_up`"
    elif _has_runtime(hint):
        why = (
            f"has the argument {name!r} for a ToolRuntime, and would be given none: write it "
            "as `runtime: ToolRuntime[Caller]`"
        )
    elif (schema := _no_schema(hint)) is not None:
        why = (
            f"has an argument {name!r} of a type that a model cannot be told of ({schema}): use "
            "str, int, float, bool, list, dict, an enum, a dataclass or a pydantic model"
        )
    return why


def _no_schema(hint: Any) -> str | None:
    try:
        TypeAdapter(hint).json_schema()
    except PydanticUserError as error:
        return str(error.message).splitlines()[0]
    except Exception as error:  # noqa: BLE001  a type's own schema may raise anything
        return words_of(error)
    return None


def _has_runtime(hint: Any) -> bool:
    """Tell whether a hint has LangChain's runtime anywhere in it, as `ToolRuntime[X] | None`."""
    return (typing.get_origin(hint) or hint) is ToolRuntime or any(
        map(_has_runtime, typing.get_args(hint))
    )


def _is_injected(hint: Any) -> bool:
    return any(
        isinstance(one, InjectedToolArg)
        or (isinstance(one, type) and issubclass(one, InjectedToolArg))
        for one in (hint, *typing.get_args(hint))
    )


def _is_generator(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _at(made: BaseTool) -> str:
    return f" ({place_of(made)})"


def _shown(file: str) -> str:
    path = Path(file)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file
