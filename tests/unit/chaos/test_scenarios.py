from __future__ import annotations

from pathlib import Path

from tests.chaos.scenarios import SCENARIOS

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "chaos.md"


def test_every_scenario_is_described() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in SCENARIOS if f"| `{name}` | " not in page] == []
