from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from millstream.agents.sessions.text import json_pieces

pytestmark = pytest.mark.promise("P3")

BYTES_MAX = 6_144

_CHARACTERS = st.sampled_from(["a", "\x01", "\x7f", '"', "\\", "\u00e9", "\u2028", "\U0001f600"])
_TEXTS = st.lists(st.tuples(_CHARACTERS, st.integers(0, 5_000)), max_size=6)


@given(_TEXTS)
def test_pieces_are_the_text_and_each_fits_as_json(runs: list[tuple[str, int]]) -> None:
    text = "".join(character * count for character, count in runs)
    pieces = json_pieces(text, BYTES_MAX)
    assert "".join(pieces) == text
    for piece in pieces:
        assert len(to_json(piece)) - 2 <= BYTES_MAX
    assert all(pieces) or pieces == [""]


def test_a_text_that_fits_is_one_piece_though_its_characters_might_not() -> None:
    assert json_pieces("x" * 6_000, BYTES_MAX) == ["x" * 6_000]
    assert [len(one) for one in json_pieces("\x01" * 2_048, BYTES_MAX)] == [1_024, 1_024]
