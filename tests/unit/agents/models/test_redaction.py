"""What a provider says of a key is told without the key."""

from __future__ import annotations

import pytest

from millstream.agents.models.errors import error_in
from millstream.agents.models.redaction import redacted


@pytest.mark.parametrize(
    "key",
    [
        "sk-SECRETKEY1234567890abcdef",
        "sk-proj-abcdefgh_IJKLMNOP-1234",
        "sk-ant-api03-abcdefghijkl",
        "gsk_abcdefghijklmnop1234",
        "AIzaSyA1234567890abcdefghijk",
        "Bearer abcdefgh.ijklmnop",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    ],
)
def test_a_key_is_not_told(key: str) -> None:
    assert redacted(f"Incorrect API key provided: {key}.").startswith(
        "Incorrect API key provided: [key]"
    )
    error = error_in({"error": {"message": f"bad key {key}", "code": "invalid_api_key"}})
    assert "[key]" in str(error)
    assert key not in str(error)


def test_plain_words_stay_as_they_are() -> None:
    words = "the key is wrong: set OPENAI_API_KEY; keys begin with sk-"
    assert redacted(words) == words
