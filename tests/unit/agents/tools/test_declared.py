"""What a function must have to be a tool, and what it says if it has not."""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
import pytest
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import InjectedToolArg, StructuredTool
from langchain_core.tools import tool as langchain_tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.prebuilt import ToolRuntime

from millstream.agents.tools import (
    NOT_MADE,
    Caller,
    ToolRegistry,
    ToolRules,
    built_in_tools,
    declared,
    tool,
)
from millstream.schemas.errors import Misconfigured


class Size(enum.Enum):
    SMALL = "small"


class Shop:
    def find(self, order: str) -> str:
        """Find an order."""
        return order


@dataclass
class Place:
    city: str


class Order(pydantic.BaseModel):
    number: int
    to: Place


class Handle:
    """Nothing that JSON could hold."""


def plain(order: str, size: Size = Size.SMALL) -> str:
    """Look an order up.

    Args:
        order: Its number, as on the invoice.
        size: The size of the parcel.
    """
    return order + size.value


async def later(order: Order, *, runtime: ToolRuntime[Caller]) -> str:
    """Look an order up later."""
    return f"{order.number} for {runtime.context.user_id}"


def of_function(made: Any) -> dict[str, Any]:
    function: dict[str, Any] = convert_to_openai_tool(made)["function"]
    return function


def test_a_plain_function_is_a_tool_as_it_stands() -> None:
    registry = ToolRegistry([plain, later])
    first, second = registry.pick(["plain", "later"])
    told = of_function(first)
    assert (told["name"], told["description"]) == ("plain", "Look an order up.")
    assert told["parameters"]["properties"]["order"] == {
        "type": "string",
        "description": "Its number, as on the invoice.",
    }
    assert told["parameters"]["required"] == ["order"]
    # langchain-ai/docs#1241: what the framework gives is no argument of the model's.
    assert list(of_function(second)["parameters"]["properties"]) == ["order"]
    assert registry.rules("plain") == ToolRules("ask_human")


def reconcile(_: Caller, __: dict[str, Any]) -> Any:
    return NOT_MADE


def test_a_function_carries_the_rules_that_it_is_declared_with() -> None:
    named = tool(name="find", description="Find it.", effect="read_only", timeout_s=5)(plain)
    pays = tool(effect="reconcile", reconcile=reconcile, ends_run_on_error=True)(later)
    registry = ToolRegistry([named, pays, tool(plain)])
    assert registry.names() == ("find", "later", "plain")
    assert registry.rules("find") == ToolRules("read_only", timeout_s=5)
    assert registry.rules("later") == ToolRules(
        "reconcile", ends_run_on_error=True, reconcile=reconcile
    )
    assert not registry.rules("find").has_effects
    assert of_function(named)["description"] == "Find it."


def test_a_tool_of_langchains_is_declared_and_stays_as_it_was() -> None:
    made = langchain_tool(plain)
    known = declared(made, effect="idempotent", result_bytes_max=100)
    assert ToolRegistry([known]).rules("plain") == ToolRules("idempotent", result_bytes_max=100)
    assert ToolRegistry([made]).rules("plain") == ToolRules()
    # As a server of tools has them: with a schema that is plain JSON, and so copied.
    schema = {"type": "object"}
    bare = StructuredTool(name="bare", description="x", args_schema=schema, func=plain)
    registry = ToolRegistry([declared(bare, effect="read_only")])
    assert registry.rules("bare").effect == "read_only"
    other = ToolRegistry()
    other.register(known, ToolRules("read_only"))
    assert other.rules("plain").effect == "read_only"


def test_built_in_tools_change_nothing() -> None:
    registry = ToolRegistry(built_in_tools())
    assert {registry.rules(name).effect for name in registry.names()} == {"read_only"}


def no_hint(order) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Look up."""
    return str(order)


def no_docstring(order: str) -> str:
    return order


def generates(order: str) -> Iterator[str]:
    """Generate."""
    yield order


async def generates_later(order: str) -> AsyncIterator[str]:
    """Generate."""
    yield order


def any_number(*orders: str) -> str:
    """Take any number."""
    return str(orders)


def any_name(**orders: str) -> str:
    """Take any name."""
    return str(orders)


def by_position(order: str, /) -> str:
    """Take it by position."""
    return order


def takes_handle(handle: Handle) -> str:
    """Take what no model can give."""
    return str(handle)


def takes_call(call: Callable[[], str]) -> str:
    """Take what no model can give."""
    return call()


def hidden_hint(order: Unimported) -> str:  # type: ignore[name-defined]  # noqa: F821
    """Take what only a type checker knows."""
    return str(order)


def takes_config(config: str) -> str:
    """Take what LangChain keeps for itself."""
    return config


def other_name(order: str, context: ToolRuntime[Caller]) -> str:
    """Take the runtime by a name of its own."""
    return order + str(context)


def perhaps_runtime(order: str, runtime: ToolRuntime[Caller] | None = None) -> str:
    """Take the runtime where there is one."""
    return order + str(runtime)


WRONG: dict[Callable[..., Any], str] = {
    no_hint: "'no_hint' has no type hint for 'order': say one, for instance `order: str`",
    no_docstring: "'no_docstring' has no docstring: say in one what it does",
    generates: "'generates' is a generator: have it return its whole result",
    generates_later: "'generates_later' is a generator: have it return its whole result",
    any_number: r"'any_number' takes any number of arguments \(\*orders\): name each of them",
    any_name: r"'any_name' takes any number of arguments \(\*orders\): name each of them",
    by_position: "'by_position' has the argument 'order' by position only: drop the `/`",
    takes_handle: "'takes_handle' has an argument 'handle' of a type that a model cannot",
    takes_call: "'takes_call' has an argument 'call' of a type that a model cannot",
    hidden_hint: "'hidden_hint' has type hints that cannot be read .*not under TYPE_CHECKING",
    other_name: "'other_name' has the argument 'context' for a ToolRuntime, and would",
    perhaps_runtime: "write it as `runtime: ToolRuntime.Caller.`",
    Shop.find: "'find' is a method without its object: give that of an object",
    takes_config: "'takes_config' has an argument called 'config', which LangChain keeps",
}


@pytest.mark.parametrize("function", WRONG, ids=[one.__name__ for one in WRONG])
def test_a_function_that_is_no_tool_says_what_to_do_and_where(
    function: Callable[..., Any],
) -> None:
    line = function.__code__.co_firstlineno
    for make in (tool, lambda one: ToolRegistry([one])):
        with pytest.raises(Misconfigured, match=WRONG[function]) as raised:
            make(function)
        assert re.search(rf"tests/unit/agents/tools/test_declared\.py:{line}\)", str(raised.value))


def test_what_is_called_like_a_function_is_told_to_be_wrapped() -> None:
    """Asked of others too (pydantic/pydantic-ai#2347)."""
    with pytest.raises(Misconfigured, match=r"write a function with type hints .* that calls it"):
        ToolRegistry([functools.partial(plain, size=Size.SMALL)])


@pytest.mark.parametrize(
    "given", [Handle, Handle(), functools.partial(plain, size=Size.SMALL), "plain", None, print]
)
def test_what_is_no_function_is_no_tool(given: Any) -> None:
    with pytest.raises(Misconfigured, match="is no tool: give a function, or a tool that"):
        ToolRegistry([given])


@pytest.mark.parametrize("name", ["order lookup", "größe", "1st", "a.b", "x" * 65, "<lambda>"])
def test_a_name_that_no_provider_takes_is_refused(name: str) -> None:
    with pytest.raises(Misconfigured, match=r"letters, digits, _ and -.*say @tool\(name="):
        tool(name=name)(plain)


def test_a_lambda_is_a_tool_only_by_a_name() -> None:
    with pytest.raises(Misconfigured, match="'<lambda>'"):
        ToolRegistry([lambda: ""])


def test_two_tools_of_one_name_are_told_apart_by_their_places() -> None:
    second = tool(name="plain")(no_args)
    with pytest.raises(Misconfigured, match="two tools called 'plain'") as raised:
        ToolRegistry([plain, second])
    for function in (plain, no_args):
        assert f"test_declared.py:{function.__code__.co_firstlineno}" in str(raised.value)
    assert ToolRegistry([plain, plain]).names() == ("plain",)


def no_args(config: RunnableConfig, given: Annotated[str, InjectedToolArg] = "") -> str:
    """Take nothing of the model's."""
    return f"{config}{given}"


def test_what_the_framework_gives_is_not_shown_to_the_model() -> None:
    assert of_function(tool(no_args))["parameters"]["properties"] == {}


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"effect": "safe"}, "the effect 'safe' is none: say one of read_only, idempotent"),
        ({"effect": "reconcile"}, "`reconcile=` is a function that says what became of a call"),
        ({"reconcile": reconcile}, "give both or neither"),
        ({"timeout_s": 0}, "`timeout_s` is a number of seconds above 0, not 0"),
        ({"timeout_s": float("inf")}, "above 0"),
        ({"timeout_s": float("nan")}, "above 0"),
        ({"result_bytes_max": 1}, "`result_bytes_max` is 64 bytes at least"),
    ],
)
def test_rules_that_contradict_say_so_with_the_tools_name(rules: dict[str, Any], why: str) -> None:
    for make in (tool(**rules), lambda one: declared(langchain_tool(one), **rules)):
        with pytest.raises(Misconfigured, match=f"the tool 'plain': .*{why}"):
            make(plain)


def test_only_a_tool_of_langchains_is_declared() -> None:
    with pytest.raises(Misconfigured, match=r"no LangChain tool: for a function, use @tool"):
        declared(plain)  # type: ignore[arg-type]
