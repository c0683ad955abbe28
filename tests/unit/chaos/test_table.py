"""The table has a column for what a scenario counts, only where that scenario ran."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from tests.chaos.table import Row, as_table
from tests.harness.audit import Verdict

NONE = Verdict(0, 0, 0, 0.0, (), (), (), (), ())


def row(name: str, counted: Mapping[str, int]) -> Row:
    return Row(
        name=name,
        verdict=NONE,
        calls_out_of_order=(),
        calls_finished=0,
        calls_repeated=(),
        resumed_after_s=(),
        handed_over_s=(),
        crashes=0,
        faults=(),
        blows=(),
        told=(),
        counted=counted,
        longest_waits=(),
        machine_load=0.0,
        waited_s=(),
        duration_s=1.0,
    )


def headings(*rows: Row) -> list[str]:
    return [str(column.header) for column in as_table(rows, 6.0).columns]


def test_what_a_scenario_counts_has_a_column_and_a_dash_where_another_does_not() -> None:
    rows = row("sizes", {"hostile": 15, "buried": 12}), row("kills", {})
    assert headings(*rows)[-5:] == ["hostile", "buried", "resumed", "s", ""]
    console = Console(width=250)
    with console.capture() as shown:
        console.print(as_table(rows, 6.0))
    (kills,) = (line for line in shown.get().splitlines() if line.startswith("│ kills"))
    assert kills.split("│")[14:16] == ["       - ", "      - "]


def test_without_such_a_scenario_there_is_no_such_column() -> None:
    assert not {"hostile", "buried"} & set(headings(row("kills", {})))
