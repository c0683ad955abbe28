"""Tokens of an endpoint, and of files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.given import Given
from millstream.streams.broker.security.kafka_security import TokenSource
from millstream.streams.broker.security.refusals import AccessRefused
from millstream.streams.broker.security.tokens import Tokens
from tests.harness.token_endpoint import SECRET, endpoint


async def test_a_token_is_asked_for_as_the_standard_has_it_and_kept_until_it_ages() -> None:
    now_s = 1000.0
    tokens = Tokens(clock_s=lambda: now_s)
    async with endpoint() as there:
        assert await tokens.token(there.source) == "t-1"
        form = {"grant_type": "client_credentials", "scope": "kafka"}
        assert there.asked == [(f"ada:{SECRET}", form)]
        there.body = json.dumps({"access_token": "t-2"})
        now_s += 79
        assert await tokens.token(there.source) == "t-1"
        now_s += 2
        assert await tokens.token(there.source) == "t-2"


async def test_a_token_that_a_broker_refused_and_a_new_secret_are_asked_for_anew() -> None:
    tokens = Tokens()
    async with endpoint() as there:
        await tokens.token(there.source)
        tokens.forget()
        await tokens.token(there.source)
        await tokens.token(replace(there.source, client_secret=Given("new", "SECRET")))
        assert [user for user, _ in there.asked] == [f"ada:{SECRET}", f"ada:{SECRET}", "ada:new"]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, '{"error": "invalid_client"}', "invalid_client; check ID and SECRET"),
        (500, "<html>", "URL gives no token: status 500"),
        (200, "[]", "URL gives no token: status 200"),
        (302, "", "URL gives no token: status 302"),
    ],
)
async def test_an_endpoint_that_gives_no_token_is_told_without_the_secret(
    status: int, body: str, words: str
) -> None:
    async with endpoint() as there:
        there.status, there.body = status, body
        with pytest.raises(AccessRefused) as told:
            await Tokens().token(there.source)
    assert words in str(told.value)
    assert SECRET not in f"{told.value!r} {there.source!r}"


async def test_an_endpoint_that_is_away_is_told() -> None:
    async with endpoint() as there:
        source = there.source
    with pytest.raises(AccessRefused, match="URL: no token came"):
        await Tokens().token(source)


async def test_a_token_of_a_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    source = TokenSource(Given(f"file://{file}", "URL"))
    tokens = Tokens()
    for text in ("one", "two"):
        file.write_text(f"{text}\n")
        assert await tokens.token(source) == text
    file.unlink()
    with pytest.raises(Misconfigured, match="URL: there is no file"):
        await tokens.token(source)
