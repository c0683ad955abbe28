"""The registry of named tools that templates draw from, and the built-in, harmless ones."""

from __future__ import annotations

import ast
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from langchain_core.tools import BaseTool, StructuredTool, ToolException

from millstream.agents.tool_schemas import with_checked_schema
from millstream.schemas.errors import Misconfigured

__all__ = ["READ_ONLY_TOOLS", "ToolRegistry", "ToolRules", "built_in_tools", "calculate"]

READ_ONLY_TOOLS: Final = frozenset({"calculator", "current_time"})
"""Tools that change nothing anywhere; any other is taken to have effects, free as it may be."""

EXPRESSION_CHARS_MAX: Final = 200
NUMBER_BITS_MAX: Final = 4096

_BINARY: Final[Mapping[type[ast.operator], Callable[[float, float], float]]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
        ast.Pow: operator.pow,
    }
)
_UNARY: Final[Mapping[type[ast.unaryop], Callable[[float], float]]] = MappingProxyType(
    {ast.UAdd: operator.pos, ast.USub: operator.neg}
)


@dataclass(frozen=True, slots=True)
class ToolRules:
    """What a tool's registration says of its calls.

    Attributes:
        has_effects: A call may do what stays done, so it is not made again unasked.
        ends_run_on_error: What the tool raises fails the run, instead of being told to the model.
        result_bytes_max: The most bytes of UTF-8 of a result that the model is shown; `None`: as
            many as the template says.
    """

    has_effects: bool = True
    ends_run_on_error: bool = False
    result_bytes_max: int | None = None


class ToolRegistry:
    """Tools by name, filled before the templates that use them are registered."""

    def __init__(self, tools: Iterable[BaseTool] = ()) -> None:
        self._given: dict[str, BaseTool] = {}
        self._tools: dict[str, BaseTool] = {}
        self._rules: dict[str, ToolRules] = {}
        for tool in tools:
            self.register(tool)

    def register(
        self,
        tool: BaseTool,
        *,
        has_effects: bool | None = None,
        ends_run_on_error: bool = False,
        result_bytes_max: int | None = None,
    ) -> None:
        """Add a tool, and say how its calls are made: see `ToolRules`.

        Without a word on effects it is taken to have some, unless it is one of `READ_ONLY_TOOLS`.
        Raises `Misconfigured` where another tool has its name, where it has an argument that no
        call could give it, for a schema that is none, and for a generator: nobody would run it.
        """
        _check_is_no_generator(tool)
        checked = with_checked_schema(tool)
        if self._given.setdefault(tool.name, tool) is not tool:
            message = f"there are two tools called {tool.name!r}: rename one"
            raise Misconfigured(message)
        self._tools[tool.name] = checked
        self._rules[tool.name] = ToolRules(
            tool.name not in READ_ONLY_TOOLS if has_effects is None else has_effects,
            ends_run_on_error,
            result_bytes_max,
        )

    def rules(self, name: str) -> ToolRules:
        """Give what a tool's registration says of its calls; one of a middleware has none."""
        rules = self._rules.get(name)
        return _of_a_middleware(name) if rules is None else rules

    def names(self) -> tuple[str, ...]:
        """Give all names, sorted."""
        return tuple(sorted(self._tools))

    def pick(self, names: Iterable[str]) -> tuple[BaseTool, ...]:
        """Give the tools of these names. Raises `Misconfigured` that lists the known ones."""
        wanted = tuple(names)
        unknown = [name for name in wanted if name not in self._tools]
        if unknown:
            message = (
                f"no tool is called {', '.join(map(repr, unknown))}; "
                f"known: {', '.join(self.names()) or 'none'}"
            )
            raise Misconfigured(message)
        return tuple(self._tools[name] for name in wanted)


def _of_a_middleware(name: str) -> ToolRules:
    # LangChain's own, which writes to the run's state and nowhere else.
    return ToolRules(has_effects=name != "write_todos")


def _check_is_no_generator(tool: BaseTool) -> None:
    for function in (getattr(tool, "func", None), getattr(tool, "coroutine", None)):
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            message = f"the tool {tool.name!r} is a generator: have it return its whole result"
            raise Misconfigured(message)


def calculate(expression: str) -> str:
    """Work out an arithmetic expression of numbers, + - * / // % ** and parentheses.

    Nothing is evaluated as Python: the expression is parsed and its nodes are checked one by one,
    numbers are bounded to 4,096 bits. Raises `ToolException`, which the model gets to read.
    """
    if len(expression) > EXPRESSION_CHARS_MAX:
        message = f"the expression is longer than {EXPRESSION_CHARS_MAX} characters"
        raise ToolException(message)
    try:
        return str(_value(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        message = f"cannot calculate {expression!r}: {error}"
        raise ToolException(message) from error


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.UnaryOp(op=operation, operand=operand) if type(operation) in _UNARY:
            return _bounded(_UNARY[type(operation)](_value(operand)))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _BINARY:
            first, second = _value(left), _value(right)
            if isinstance(operation, ast.Pow):
                _check_power(first, second)
            return _bounded(_BINARY[type(operation)](first, second))
    message = "only numbers, + - * / // % ** and parentheses are understood"
    raise ValueError(message)


def _check_power(base: float, exponent: float) -> None:
    # Before it is worked out: 9**9**9 alone would take minutes and gigabytes.
    if isinstance(base, int) and base.bit_length() * abs(exponent) > NUMBER_BITS_MAX:
        message = "the result is too large"
        raise ValueError(message)


def _bounded(number: float) -> float:
    if isinstance(number, complex) or not math.isfinite(number):
        message = "the result is not a real number"
        raise ValueError(message)
    if isinstance(number, int) and number.bit_length() > NUMBER_BITS_MAX:
        message = "the result is too large"
        raise ValueError(message)
    return number


def built_in_tools() -> tuple[BaseTool, ...]:
    """Make the tools that every worker has: `calculator` and `current_time`."""
    return (
        StructuredTool.from_function(
            calculate,
            name="calculator",
            description="Work out an arithmetic expression, for instance (2 + 3) * 4.",
            handle_tool_error=True,
        ),
        StructuredTool.from_function(
            _current_time,
            name="current_time",
            description="Tell the date and time now, in UTC.",
        ),
    )


def _current_time() -> str:
    """Tell the date and time now, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
