"""What real providers send, each case in each kind of agent that can meet it."""

from __future__ import annotations

import pytest

from tests.providers.case import Case, check, direct, load_cases


def _each() -> list[pytest.ParameterSet]:
    return [
        pytest.param(case, template, id=f"{case.file}-{template}")
        for case in load_cases()
        for template in case.templates
    ]


# OpenAI's client warns of figures that are no whole numbers as it hands them on.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize(("case", "template"), _each())
async def test_what_a_provider_sent_comes_out_right(case: Case, template: str) -> None:
    async with direct(case) as (run, provider):
        await check(case, template, run, provider)
