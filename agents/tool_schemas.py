"""What a tool's arguments may be called, and whether those of a call are what it takes."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any, Final

import jsonschema
from langchain_core.callbacks import BaseCallbackManager
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, Tool
from langgraph.prebuilt import ToolRuntime
from pydantic import BaseModel, ValidationError, create_model
from referencing import Registry

from millstream.schemas.errors import Misconfigured

__all__ = ["arguments_of", "is_frameworks", "problem_of", "takes", "with_checked_schema"]

# LangChain 1.4 and LangGraph 1.2 fill these in, drop them, or fail by them (langchain#34029,
# langchain#25228). Given by the framework where the annotation is the framework's.
_RESERVED: Final[Mapping[str, tuple[type, ...]]] = {
    "config": (dict,),
    "run_manager": (BaseRunManager,),
    "callbacks": (BaseCallbackManager, list),
    "runtime": (ToolRuntime,),
    "self": (),
    "args": (),
    "kwargs": (),
    "model_config": (),
}


def with_checked_schema(tool: BaseTool) -> BaseTool:
    """Give a tool as it may be registered, with `properties` in its JSON schema.

    Raises `Misconfigured`, naming the argument, where a call could not give it to the tool, and for
    what is no JSON schema of an object.
    """
    for name in _argument_names(tool):
        if name in _RESERVED or name.startswith("_"):
            message = (
                f"the tool {tool.name!r} has an argument called {name!r}, which LangChain keeps "
                "for itself or loses: rename it"
            )
            raise Misconfigured(message)
    _refuse_lost_runtime(tool)
    schema = tool.args_schema
    if not isinstance(schema, dict):
        return _with_any_context(tool)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        message = f"the tool {tool.name!r} has no JSON schema: {error.message}"
        raise Misconfigured(message) from error
    if schema.get("type", "object") != "object":
        message = f"the tool {tool.name!r} has a JSON schema of something other than an object"
        raise Misconfigured(message)
    # OpenAI refuses a schema without them (openai-agents-python#449, langchain-mcp-adapters#137).
    whole = {"type": "object", "properties": {}, **schema}
    return tool if whole == schema else tool.model_copy(update={"args_schema": whole})


def _refuse_lost_runtime(tool: BaseTool) -> None:
    """Refuse a class whose `runtime` LangChain does not give to it (langchain#34558).

    Of a class with a schema of its own it looks into that one; of a function it looks at both.
    """
    schema = tool.args_schema
    if isinstance(tool, StructuredTool | Tool) or not isinstance(schema, type):
        return
    called = type(tool)._arun if type(tool)._arun is not BaseTool._arun else tool._run  # noqa: SLF001
    taken = inspect.signature(called).parameters.get("runtime")
    given = getattr(schema, "model_fields", {})
    if taken is None or taken.default is not inspect.Parameter.empty or "runtime" in given:
        return
    message = (
        f"the tool {tool.name!r} takes a `runtime` that its `args_schema` does not have, so no "
        "call could give it: add `runtime: ToolRuntime` to the schema, or leave the schema out"
    )
    raise Misconfigured(message)


def _with_any_context(tool: BaseTool) -> BaseTool:
    """Give a tool whose plain `runtime: ToolRuntime` takes a context, which its schema says not.

    Else each of its calls warns that `None` was expected (langchain-ai/langgraph#8417).
    """
    schema = tool.args_schema
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return tool
    field = schema.model_fields.get("runtime")
    if field is None or field.annotation is not ToolRuntime:
        return tool
    made = create_model(
        schema.__name__,
        __base__=schema,
        __doc__=schema.__doc__,
        runtime=(ToolRuntime[Any, Any], field),
    )
    return tool.model_copy(update={"args_schema": made})


def arguments_of(tool: BaseTool) -> frozenset[str] | None:
    """Give the names that a call's arguments may have; `None`: the tool's schema takes any.

    LangChain drops an argument that a function has no parameter for: a call with a `dry_run` that
    a model made up would be made in earnest.
    """
    schema = tool.tool_call_schema
    if isinstance(schema, dict):
        return None
    if getattr(schema, "model_config", {}).get("extra") == "allow" or _takes_more(tool):
        return None
    fields = getattr(schema, "model_fields", None)
    if fields is None:
        return None
    aliases = (getattr(one, "alias", None) for one in fields.values())
    return frozenset((*fields, *(alias for alias in aliases if alias)))


def takes(tool: BaseTool, args: Mapping[str, Any]) -> bool:
    """Tell whether LangChain would make the call; if it does not, it says what is wrong.

    It makes any of a tool whose schema is plain JSON: `problem_of` says what is wrong there.
    """
    schema: Any = tool.tool_call_schema
    if isinstance(schema, dict):
        return True
    try:
        schema.model_validate(dict(args))
    except ValidationError:
        return False
    return True


def _takes_more(tool: BaseTool) -> bool:
    given = tool.args_schema
    config = getattr(given, "model_config", {}) if isinstance(given, type) else {}
    return config.get("extra") == "allow"


def problem_of(
    tool: BaseTool, args: Mapping[str, Any], known: frozenset[str] | None = None
) -> str | None:
    """Say what is wrong with the arguments of a call; `None` if nothing is.

    `known` are their names, where it has no others (`arguments_of`). Their types only of a tool
    whose schema is plain JSON: LangChain checks any other's itself.
    """
    if known is not None and (unknown := args.keys() - known) and takes(tool, args):
        names = ", ".join(sorted(map(repr, unknown)))
        return f"it has no argument {names}; known: {', '.join(sorted(known)) or 'none'}"
    if not isinstance(tool.args_schema, dict):
        return None
    # Without a registry of its own, a reference would be fetched from wherever it points to.
    validator = jsonschema.Draft202012Validator(tool.args_schema, registry=Registry())
    try:
        problem = jsonschema.exceptions.best_match(validator.iter_errors(args))
    except Exception as error:  # noqa: BLE001  a reference that leads nowhere, a pattern that is none
        return f"the tool's schema cannot be checked: {error}"
    return None if problem is None else f"{problem.json_path}: {problem.message}"


def _argument_names(tool: BaseTool) -> set[str]:
    """Give the names that a model is to give, also those that LangChain hides from it."""
    schema = tool.tool_call_schema
    if isinstance(schema, dict):
        return set(schema.get("properties", {}))
    names = set(getattr(schema, "model_fields", ()))
    function = (tool.func or tool.coroutine) if isinstance(tool, StructuredTool) else None
    if function is None:
        return names
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001  names that only a type checker knows
        hints = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        if is_frameworks(name, hints.get(name)):
            names.discard(name)
        elif name in _RESERVED or name.startswith("_"):
            names.add(name)
    return names


def is_frameworks(name: str, hint: Any) -> bool:
    """Tell whether a parameter of this name and type hint is given by LangChain, not the model."""
    if hint is RunnableConfig:
        return name == "config"
    kinds = [hint, typing.get_origin(hint), *typing.get_args(hint)]
    if name == "config":
        return RunnableConfig in kinds
    return any(
        isinstance(kind, type) and issubclass(kind, _RESERVED.get(name, ())) and kind is not list
        for kind in kinds
        if kind is not None
    )
