"""Reported faults of tools, of models that are no provider's, and of text, through a real lane."""

from __future__ import annotations

import pytest

from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from tests.harness.quick_time import run_quickly
from tests.providers.case import REPORTED, Case, check, in_memory, load_cases
from tests.providers.own_tools import OWN, Odd, own_tools

pytestmark = pytest.mark.promise("P1")


def _each() -> list[pytest.ParameterSet]:
    return [pytest.param(case, id=case.file) for case in load_cases(REPORTED)]


async def _play(case: Case) -> None:
    templates = (*BUILT_IN_TEMPLATES, OWN)
    async with in_memory(case, templates, own_tools, {"odd:ainvoke": Odd()}) as bench:
        await check(case, case.templates[0], bench)


@pytest.mark.parametrize("case", _each())
def test_what_was_reported_comes_out_right(case: Case) -> None:
    run_quickly(_play(case))
