"""A sample of what real providers send, one of each dialect and kind, to lanes on real Kafka."""

from __future__ import annotations

import pytest

from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from millstream.streams.settings import Settings
from tests.providers.case import REPORTED, check, load_cases, on_kafka
from tests.providers.own_tools import OWN, own_tools

pytestmark = pytest.mark.promise("P1")

CASES = {case.file: case for case in load_cases()}

_slow = pytest.mark.slow

SAMPLE = [
    pytest.param("the-client-does-not-ask-for-the-usage-of-a-stream", id="asking"),
    pytest.param("usage-reports-that-cannot-be-true", id="usage"),
    pytest.param("cached-prompt-tokens-have-a-price-of-their-own", id="money"),
    pytest.param("an-answer-that-stopped-at-the-token-limit", id="ends"),
    pytest.param("the-stream-ends-without-a-sign-of-its-end", id="broken"),
    pytest.param("errors-that-stay", id="errors"),
    pytest.param("an-overload-told-inside-a-stream-of-status-200", id="overload"),
    pytest.param("the-provider-says-when-to-come-back", id="retry-after", marks=_slow),
    pytest.param("openai-responses", id="responses", marks=_slow),
    pytest.param("anthropic-usage", id="anthropic"),
    pytest.param("gemini-usage", id="gemini"),
    pytest.param("ollama-usage", id="ollama"),
    pytest.param("anthropic-errors-that-stay", id="anthropic-errors", marks=_slow),
    pytest.param("gemini-when-to-come-back", id="gemini-retry-delay", marks=_slow),
    pytest.param("ollama-ends", id="ollama-ends", marks=_slow),
    pytest.param("a-structured-answer-by-response-format", id="structured", marks=_slow),
    *(pytest.param(case.file, id=case.file) for case in CASES.values() if case.on_kafka),
]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("name", SAMPLE)
async def test_what_a_provider_sent_comes_out_right_on_kafka(name: str, settings: Settings) -> None:
    case = CASES[name]
    async with on_kafka(case, settings) as bench:
        await check(case, case.templates[-1], bench)


REPORTED_CASES = {case.file: case for case in load_cases(REPORTED)}


@pytest.mark.parametrize(
    "name",
    [
        "a-tools-own-model-is-charged-at-its-own-price",
        "a-tool-that-calls-sys-exit",
        "half-a-character-in-a-tools-arguments",
    ],
)
async def test_what_was_reported_of_tools_comes_out_right_on_kafka(
    name: str, settings: Settings
) -> None:
    case = REPORTED_CASES[name]
    settings = settings.model_copy(update={"partitions": 1})  # of all users
    async with on_kafka(case, settings, (*BUILT_IN_TEMPLATES, OWN), own_tools) as bench:
        await check(case, case.templates[0], bench)
