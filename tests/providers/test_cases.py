"""What real providers send, each case in each kind of agent that meets it, through a real lane."""

from __future__ import annotations

import pytest

from tests.harness.quick_time import run_quickly
from tests.providers.case import Case, check, in_memory, load_cases


def _each() -> list[pytest.ParameterSet]:
    return [
        pytest.param(case, template, id=f"{case.file}-{template}")
        for case in load_cases()
        for template in case.templates
    ]


async def _play(case: Case, template: str) -> None:
    async with in_memory(case) as bench:
        await check(case, template, bench)


# OpenAI's client warns of figures that are no whole numbers as it hands them on.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize(("case", "template"), _each())
def test_what_a_provider_sent_comes_out_right(case: Case, template: str) -> None:
    run_quickly(_play(case, template))
