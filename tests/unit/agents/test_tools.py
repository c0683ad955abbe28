"""The registry, and a calculator that nobody can run Python with."""

from __future__ import annotations

import pytest
from langchain_core.tools import ToolException

from millstream.agents.tools import ToolRegistry, built_in_tools, calculate
from millstream.schemas.errors import Misconfigured


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("-(7 // 2) + 2 ** 10 % 7", "-1"),
        (" 1 / 4 ", "0.25"),
        ("2 ** -1", "0.5"),
        ("+1e3", "1000.0"),
    ],
)
def test_arithmetic_is_worked_out(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "1 / 0",
        "__import__('os').system('true')",
        "(1).__class__",
        "[1][0]",
        "'a' * 9",
        "True + 1",
        "1 if 1 else 2",
        "lambda: 1",
        "9 ** 9 ** 9",
        "9 ** -9 ** 99",
        "10.0 ** 400",
        "(-8) ** 0.5",
        "1e308 * 10",
        "1j",
        "1 << 9",
        "9" * 199 + "0",
        "1" * 201,
        "(" * 99 + "1" + ")" * 99,
        "-" * 199 + "1",
        "1 \x00",
    ],
)
def test_anything_else_is_refused_or_a_bounded_number(expression: str) -> None:
    try:
        value = calculate(expression)
    except ToolException:
        return
    assert len(value) <= 1_300
    assert set(value) <= set("-+.e0123456789")


async def test_the_model_reads_what_was_wrong() -> None:
    calculator, _ = built_in_tools()
    assert "cannot calculate" in await calculator.ainvoke({"expression": "1 +"})


async def test_the_time_is_told_in_utc() -> None:
    _, current_time = built_in_tools()
    assert (await current_time.ainvoke({})).endswith("+00:00")


def test_an_unknown_tool_is_named_beside_the_known_ones() -> None:
    registry = ToolRegistry(built_in_tools())
    assert [tool.name for tool in registry.pick(["calculator"])] == ["calculator"]
    with pytest.raises(Misconfigured, match="'nosuch'; known: calculator, current_time"):
        registry.pick(["calculator", "nosuch"])


def test_two_tools_of_one_name_are_refused() -> None:
    registry = ToolRegistry(built_in_tools())
    with pytest.raises(Misconfigured, match="'calculator'"):
        registry.register(built_in_tools()[0])
