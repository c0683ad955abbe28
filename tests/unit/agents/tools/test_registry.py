"""The registry: which tools it takes, and what it says of those that it does not."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.prebuilt import ToolRuntime
from pydantic import BaseModel, ConfigDict

from millstream.agents.tool_schemas import problem_of
from millstream.agents.tools import ToolRegistry, ToolRules, built_in_tools
from millstream.schemas.errors import Misconfigured


def test_an_unknown_tool_is_named_beside_the_known_ones() -> None:
    registry = ToolRegistry(built_in_tools())
    assert [tool.name for tool in registry.pick(["calculator"])] == ["calculator"]
    with pytest.raises(Misconfigured, match="'nosuch'; known: calculator, current_time"):
        registry.pick(["calculator", "nosuch"])


def test_two_tools_of_one_name_are_refused() -> None:
    registry = ToolRegistry(built_in_tools())
    with pytest.raises(Misconfigured, match="'calculator'"):
        registry.register(built_in_tools()[0])


def named(argument: str, annotation: Any = str) -> BaseTool:
    async def tool(**_: Any) -> str:
        return ""

    kind = inspect.Parameter.KEYWORD_ONLY
    parameter = inspect.Parameter(argument, kind, annotation=annotation)
    tool.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    tool.__annotations__ = {argument: annotation}
    return StructuredTool.from_function(coroutine=tool, name="odd", description="x")


@pytest.mark.parametrize(
    "name", ["config", "run_manager", "callbacks", "runtime", "self", "args", "kwargs", "_x"]
)
def test_an_argument_that_would_be_lost_is_refused_by_name(name: str) -> None:
    with pytest.raises(Misconfigured, match=f"argument called '{name}'"):
        ToolRegistry([named(name)])
    schema = {"type": "object", "properties": {name: {"type": "string"}}}
    tool = StructuredTool(name="odd", description="x", args_schema=schema, coroutine=_nothing)
    with pytest.raises(Misconfigured, match=f"argument called '{name}'"):
        ToolRegistry([tool])


@pytest.mark.parametrize("name", ["state", "store", "input", "type", "name", "id", "context"])
def test_an_argument_may_have_any_other_name(name: str) -> None:
    assert ToolRegistry([named(name)]).names() == ("odd",)


@pytest.mark.parametrize(
    ("name", "annotation"), [("config", RunnableConfig), ("runtime", ToolRuntime)]
)
def test_what_the_framework_gives_may_be_taken(name: str, annotation: type[Any]) -> None:
    assert ToolRegistry([named(name, annotation)]).names() == ("odd",)


@pytest.mark.parametrize("schema", [{}, {"type": "object"}])
def test_a_schema_without_properties_goes_out_with_empty_ones(schema: dict[str, Any]) -> None:
    tool = StructuredTool(name="odd", description="x", args_schema=schema, coroutine=_nothing)
    (checked,) = ToolRegistry([tool]).pick(["odd"])
    parameters = convert_to_openai_tool(checked)["function"]["parameters"]
    assert parameters == {"type": "object", "properties": {}}


@pytest.mark.parametrize("schema", [{"type": "array"}, {"type": "nonsense"}])
def test_a_schema_of_no_object_is_refused(schema: dict[str, Any]) -> None:
    tool = StructuredTool(name="odd", description="x", args_schema=schema, coroutine=_nothing)
    with pytest.raises(Misconfigured, match="'odd'"):
        ToolRegistry([tool])


def test_a_schema_that_refers_to_nothing_is_told_and_fetches_nothing() -> None:
    schema = {"type": "object", "properties": {"x": {"$ref": "http://127.0.0.1:9/x"}}}
    tool = StructuredTool(name="odd", description="x", args_schema=schema, coroutine=_nothing)
    assert "cannot be checked" in (problem_of(tool, {"x": 1}) or "")


async def _nothing(**_: Any) -> str:
    return ""


def test_effects_are_what_the_registration_says() -> None:
    registry = ToolRegistry(built_in_tools())
    registry.register(named("x"))
    assert [registry.rules(name).has_effects for name in registry.names()] == [False, False, True]
    free = ToolRegistry()
    free.register(named("x"), ToolRules("read_only"))
    assert not free.rules("odd").has_effects


class _Asked(BaseModel):
    a: int


class _AskedAndRun(_Asked):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    runtime: ToolRuntime


class _Find(BaseTool):
    name: str = "find"
    description: str = "Find something."
    args_schema: type[BaseModel] = _Asked

    def _run(self, a: int, runtime: ToolRuntime) -> str:
        return f"{a} {runtime.context}"


class _FindWithSchema(_Find):
    args_schema: type[BaseModel] = _AskedAndRun


def test_a_class_whose_schema_loses_its_runtime_is_refused() -> None:
    with pytest.raises(Misconfigured, match="takes a `runtime` that its `args_schema` does not"):
        ToolRegistry([_Find()])
    assert ToolRegistry([_FindWithSchema()]).names() == ("find",)
