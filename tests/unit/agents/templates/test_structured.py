"""Answers that follow a schema, or are refused with the place where they do not."""

from __future__ import annotations

import pytest

from millstream.agents.templates.structured import checked_answer
from millstream.schemas.errors import Terminal

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "number"}, "s": {"type": "string"}},
    "required": ["n"],
}


def test_an_answer_is_taken_as_it_is_or_from_text() -> None:
    assert checked_answer(SCHEMA, {"n": 1}) == {"n": 1}
    assert checked_answer(SCHEMA, '{"n": 1.5}') == {"n": 1.5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not answer in JSON"),
        ("certainly! {}", "not answer in JSON"),
        ("[" * 100_000, "not answer in JSON"),
        ("[]", "schema at \\$"),
        ('{"n": "1"}', "schema at \\$.n"),
        ('{"n": NaN}', "written as JSON"),
        ('{"n": 1, "s": "\\ud800"}', "written as JSON"),
    ],
)
def test_anything_else_is_refused(text: str, words: str) -> None:
    with pytest.raises(Terminal, match=words):
        checked_answer(SCHEMA, text)


def test_a_schema_by_address_is_not_fetched() -> None:
    schema = {"type": "object", "$ref": "http://127.0.0.1:9/schema.json"}
    with pytest.raises(Exception, match=r"schema\.json"):
        checked_answer(schema, {"n": 1})
