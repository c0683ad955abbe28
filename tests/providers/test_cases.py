"""What real providers send, each case in each kind of agent that meets it, through a real lane."""

from __future__ import annotations

import pytest

from tests.harness.quick_time import run_quickly
from tests.providers.case import Case, check, in_memory, load_cases


def _each() -> list[pytest.ParameterSet]:
    return [
        pytest.param(case, template, langchains, id=f"{case.file}-{template}{by}", marks=marks)
        for case in load_cases()
        for template in case.templates
        for langchains, by, marks in ((False, "", ()), (True, "-langchain", pytest.mark.slow))
        if not langchains or _is_of_openai(case)
    ]


def _is_of_openai(case: Case) -> bool:
    names = [asked.get("model", "openai:fake") for asked in case.requests]
    return any(name.startswith("openai:") for name in names)


async def _play(case: Case, template: str, *, langchains: bool) -> None:
    async with in_memory(case, langchains=langchains) as bench:
        await check(case, template, bench)


# OpenAI's client warns of figures that are no whole numbers as it hands them on.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize(("case", "template", "langchains"), _each())
def test_what_a_provider_sent_comes_out_right(
    case: Case, template: str, *, langchains: bool
) -> None:
    run_quickly(_play(case, template, langchains=langchains))
