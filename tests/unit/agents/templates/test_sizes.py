"""Sizes that a template does not name follow its models; those that it names stay."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from millstream.agents.models.known.windows import UNKNOWN_WINDOW, Window
from millstream.agents.templates.memory import LastTurns, Memory, NoMemory, Summary, TokenBudget
from millstream.agents.templates.sizes import (
    Sizes,
    as_written_before,
    fitted,
    sizes_by_model,
    sizes_for,
    sizes_of,
)
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate

LOCAL, SMALL, BIG, HUGE = Window(2048), Window(8192), Window(128_000), Window(1_000_000, 64_000)


@pytest.mark.parametrize(
    ("windows", "sizes"),
    [
        ([], (256, 1024)),
        ([UNKNOWN_WINDOW], (256, 1024)),
        ([LOCAL], (256, 1024)),
        ([Window(512)], (64, 256)),
        ([SMALL], (1024, 4096)),
        ([Window(32_768)], (4096, 16_384)),
        ([BIG], (4096, 32_768)),
        ([HUGE], (4096, 32_768)),
        ([Window(128_000, 2_000)], (2_000, 32_768)),
        # Each of a run's models may have to go on with it.
        ([BIG, SMALL], (1024, 4096)),
        ([BIG, UNKNOWN_WINDOW], (256, 1024)),
        ([Window(128_000, 2_000), SMALL], (1024, 4096)),
    ],
)
def test_sizes_suit_the_smallest_of_the_models(
    windows: list[Window], sizes: tuple[int, int]
) -> None:
    found = sizes_for(windows)
    assert (found.output_tokens, found.memory_tokens) == sizes


@pytest.mark.parametrize(
    ("window", "output_tokens", "memory_tokens"),
    [
        (SMALL, 512, 4096),
        (SMALL, 2048, 3072),
        (SMALL, 8192, 1024),
        (BIG, 100_000, 16_000),
        (LOCAL, 512, 1024),
        (UNKNOWN_WINDOW, 8192, 1024),
    ],
)
def test_a_long_answer_takes_its_room_from_what_is_remembered(
    window: Window, output_tokens: int, memory_tokens: int
) -> None:
    assert sizes_for([window], output_tokens=output_tokens).memory_tokens == memory_tokens


@pytest.mark.parametrize("strategy", ["last_turns", "token_budget", "summary"])
def test_what_a_template_names_stays_as_it_is(strategy: str) -> None:
    given: dict[str, Any] = {"strategy": strategy, "tokens_max": 700}
    if strategy == "summary":
        given |= {"summary_tokens_max": 20, "read_tokens_max": 30}
    template = AgentTemplate.model_validate(
        {"name": "own", "output_tokens_max": 256, "memory": given}
    )
    assert fitted(template, sizes_for([HUGE])) is template
    assert sizes_by_model(template) == ()


@pytest.mark.parametrize("memory", [LastTurns(turns_max=4), TokenBudget(keep_share=0.3)])
def test_what_it_does_not_name_is_fitted_and_the_rest_stays(
    memory: LastTurns | TokenBudget,
) -> None:
    template = AgentTemplate(name="own", memory=memory)
    whole = fitted(template, Sizes(1, 2, 3))
    assert (whole.answer_tokens_max, whole.memory) == (
        1,
        memory.model_copy(update={"tokens_max": 2}),
    )
    assert (template.answer_tokens_max, memory.tokens) == (256, 1024)
    assert sizes_by_model(template) == ("output_tokens_max", "memory.tokens_max")
    nothing = AgentTemplate(name="own", output_tokens_max=9, memory=NoMemory())
    assert fitted(nothing, Sizes(1, 2, 3)) is nothing


@pytest.mark.parametrize(
    ("given", "tokens", "sizes"),
    [
        ({}, 1024, (1024, 256, 99)),
        ({}, 32_768, (32_768, 2048, 99)),
        ({}, 8192, (8192, 512, 99)),
        ({}, 256, (256, 128, 99)),  # as much as there is room for
        ({"keep_share": 0.9}, 1024, (1024, 102, 99)),
        ({"summary_tokens_max": 600}, 8192, (8192, 600, 99)),
        ({"summary_tokens_max": 600}, 1024, (1201, 600, 99)),  # which is given its room
        ({"tokens_max": 4000}, 8192, (4000, 256, 99)),
        ({"read_tokens_max": 7}, 1024, (1024, 256, 7)),
    ],
)
def test_a_summary_has_room_for_itself(
    given: dict[str, Any], tokens: int, sizes: tuple[int, int, int]
) -> None:
    whole = Summary.model_validate(given).fitted(tokens, 99)
    assert (whole.tokens_max, whole.summary_tokens_max, whole.read_tokens_max) == sizes
    assert Summary.model_validate(whole.model_dump()) == whole


@pytest.mark.parametrize("given", [{"tokens_max": 100}, {"keep_share": 1.0}])
def test_a_summary_without_room_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="`summary_tokens_max` \\(256\\) is more than"):
        Summary.model_validate(given)


def test_what_a_summary_is_made_of_follows_the_model_that_writes_it() -> None:
    known = {"big": BIG, "small": SMALL, "main": BIG}
    template = AgentTemplate(name="own", models=("big", "default"), memory=Summary(model="small"))
    sizes = sizes_of(template, known.__getitem__, default="main")
    assert sizes == Sizes(4096, 32_768, 4096)
    assert sizes_of(template, known.__getitem__, default="small", models=("big",)) == sizes
    assert sizes_of(template, known.__getitem__, default="small").memory_tokens == 4096


MEMORIES: list[Memory] = [
    NoMemory(),
    LastTurns(),
    TokenBudget(),
    Summary(),
    Summary(tokens_max=900),
]


@pytest.mark.parametrize("memory", MEMORIES)
def test_what_is_written_names_no_size_that_follows_the_model(memory: Memory) -> None:
    template = AgentTemplate(name="own", memory=memory)
    written = template.written()
    assert "output_tokens_max" not in written
    assert None not in [
        written["memory"].get(name, 0) for name in ("tokens_max", "read_tokens_max")
    ]
    assert next(iter(written["memory"])) == "strategy"
    assert AgentTemplate.model_validate(written) == template


@pytest.mark.parametrize("template", BUILT_IN_TEMPLATES, ids=lambda one: one.name)
def test_what_an_earlier_version_wrote_is_told_from_other_content(template: AgentTemplate) -> None:
    before = as_written_before(template)
    memory = TypeAdapter[Any](Memory).validate_python(
        {"strategy": "last_turns", "tokens_max": 1024}
    )
    assert (before.output_tokens_max, before.memory) == (template.answer_tokens_max, memory)
    assert as_written_before(before) is before
