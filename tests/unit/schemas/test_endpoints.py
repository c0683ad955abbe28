"""A model's name is the same whichever client is to call it."""

from __future__ import annotations

import pytest

from millstream.schemas.endpoints import without_client


@pytest.mark.parametrize(
    ("name", "plain"),
    [("langchain:openai:x", "openai:x"), ("openai:x", "openai:x"), ("langchain", "langchain")],
)
def test_which_client_calls_a_model_is_no_part_of_its_name(name: str, plain: str) -> None:
    assert without_client(name) == plain
