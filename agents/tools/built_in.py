"""The tools that every worker has, harmless ones: a calculator and a clock."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from langchain_core.tools import BaseTool, StructuredTool, ToolException

from millstream.agents.tools.declared import declared

__all__ = ["built_in_tools", "calculate"]

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
    calculator = StructuredTool.from_function(
        calculate,
        name="calculator",
        description="Work out an arithmetic expression, for instance (2 + 3) * 4.",
        handle_tool_error=True,
    )
    current_time = StructuredTool.from_function(
        _current_time,
        name="current_time",
        description="Tell the date and time now, in UTC.",
    )
    return declared(calculator, effect="read_only"), declared(current_time, effect="read_only")


def _current_time() -> str:
    """Tell the date and time now, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
