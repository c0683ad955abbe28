"""The cases that the how-to page shows are cases, and come out right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness.quick_time import run_quickly
from tests.providers.case import check, in_memory
from tests.providers.case_file import read_case

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "report-a-provider-fault.md"
SHOWN = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("shown", SHOWN, ids=range(len(SHOWN)))
def test_a_case_that_the_page_shows_comes_out_right(shown: str, tmp_path: Path) -> None:
    file = tmp_path / "case.json"
    file.write_text(shown)
    case = read_case(file)

    async def play() -> None:
        for template in case.templates:
            async with in_memory(case) as bench:
                await check(case, template, bench)

    run_quickly(play())


def test_the_page_shows_cases() -> None:
    assert len(SHOWN) == 2
