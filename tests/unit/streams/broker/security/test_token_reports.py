"""What went wrong elsewhere with tokens of OAUTHBEARER, tried on ours.

Public reports, and what went wrong there:

- aio-libs/aiohttp#3681, #3926, #6769: an answer that comes in parts is read as far as its first.
- thingsboard/thingsboard#15670, apache/kafka#6233 (KAFKA-7902): an endpoint is away for a moment as
  a token is renewed, and the one that still holds is thrown away.
- panva/oauth4webapi#71, openid/AppAuth-iOS#228: `expires_in` is text.
- googleapis/managedkafka#17, pravega/pravega#7188: a clock is off, and a token is held for expired
  that the broker would take.
- apache/kafka#15475 (KAFKA-16345), strimzi/strimzi-kafka-oauth#310,
  confluentinc/confluent-kafka-javascript#288: some endpoints want id and secret encoded, some not.
- apache/kafka#13000 (KAFKA-14496): they are encoded in the alphabet of URLs.
- strimzi/strimzi-kafka-oauth#120: a token that was spoilt on its way is kept and sent again.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.given import Given
from millstream.streams.broker.security.kafka_security import TokenSource
from millstream.streams.broker.security.refusals import AccessRefused
from millstream.streams.broker.security.tokens import Tokens
from tests.harness.secure_kafka import token
from tests.harness.token_endpoint import SECRET, endpoint


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def test_an_answer_that_comes_in_parts_is_read_whole() -> None:
    long = "t" * 60_000

    async def in_parts(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        body = json.dumps({"access_token": long, "expires_in": 100}).encode()
        for part in (body[:10], body[10:30_000], body[30_000:]):
            await response.write(part)
        return response

    async with endpoint(in_parts) as there:
        assert await Tokens().token(there.source) == long


async def test_an_answer_without_an_end_is_read_so_far_and_no_further() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
        except ConnectionError:
            return response

    async with endpoint(endless) as there:
        with pytest.raises(AccessRefused, match="URL gives no token"):
            await Tokens().token(there.source)


async def test_a_token_that_holds_is_used_while_no_other_comes() -> None:
    clock = Clock()
    tokens = Tokens(clock_s=clock)
    async with endpoint() as there:
        assert await tokens.token(there.source) == "t-1"
        there.status = 503
        clock.now_s += 81
        assert [await tokens.token(there.source) for _ in range(3)] == ["t-1"] * 3
        assert len(there.asked) == 2  # not for each connection
        there.status, there.body = 200, json.dumps({"access_token": "t-2"})
        clock.now_s += 11
        assert await tokens.token(there.source) == "t-2"


async def test_a_token_that_has_expired_is_used_no_more() -> None:
    clock = Clock()
    tokens = Tokens(clock_s=clock)
    async with endpoint() as there:
        await tokens.token(there.source)
        there.status = 503
        clock.now_s += 101
        with pytest.raises(AccessRefused, match="status 503"):
            await tokens.token(there.source)


@pytest.mark.parametrize(
    ("answer", "lasts_s"),
    [
        ({"access_token": "t", "expires_in": "3599"}, 3599),
        ({"access_token": "t", "expires_in": 3599.0}, 3599),
        ({"access_token": token(lasts_s=60)}, 60),
        ({"access_token": token(lasts_s=-60)}, 300),
        ({"access_token": "opaque", "expires_in": True}, 300),
        ({"access_token": "opaque", "expires_in": "soon"}, 300),
        ({"access_token": "opaque", "expires_in": -5}, 300),
        ({"access_token": "opaque", "expires_in": float("inf")}, 300),
        ({"access_token": "opaque", "expires_in": float("nan")}, 300),
    ],
)
async def test_how_long_a_token_holds_is_read_however_it_is_said(
    answer: dict[str, object], lasts_s: float
) -> None:
    clock = Clock()
    tokens = Tokens(clock_s=clock)
    async with endpoint() as there:
        there.body = json.dumps(answer)
        for share, asked in ((0.0, 1), (0.79, 1), (0.81, 2)):
            clock.now_s = 1000 + share * lasts_s
            await tokens.token(there.source)
            assert len(there.asked) == asked


async def test_whether_a_token_of_a_file_has_expired_is_for_the_broker_to_say(
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    old = token(lasts_s=-60)
    file.write_text(old)
    tokens = Tokens()
    assert await tokens.token(TokenSource(Given(f"file://{file}", "URL"))) == old
    assert ", which expired 6" in tokens.told_of_expiry(old)
    assert tokens.told_of_expiry(token()) == tokens.told_of_expiry("opaque") == ""


@pytest.mark.parametrize("encodes", [False, True])
async def test_id_and_secret_are_sent_as_javas_client_sends_them(encodes: bool) -> None:  # noqa: FBT001  a case
    async with endpoint() as there:
        source = replace(
            there.source, client_secret=Given("a/b+c d:ü%?>~", "SECRET"), encodes_client=encodes
        )
        await Tokens().token(source)
        (header,) = there.headers
    plain = "ada:a%2Fb%2Bc+d%3A%C3%BC%25%3F%3E~" if encodes else "ada:a/b+c d:ü%?>~"
    assert header == f"Basic {b64encode(plain.encode()).decode()}"


@pytest.mark.parametrize("spoilt", ["", "a b", "a\x01auth=b", "a\nb", "tökén", "\ud800"])
async def test_a_spoilt_token_is_not_sent(tmp_path: Path, spoilt: str) -> None:
    async with endpoint() as there:
        there.body = json.dumps({"access_token": spoilt})
        with pytest.raises(AccessRefused, match="URL gives no token"):
            await Tokens().token(there.source)
        there.body = json.dumps({"access_token": "t-3"})
        assert await Tokens().token(there.source) == "t-3"
    file = tmp_path / "token"
    file.write_bytes(spoilt.encode("utf-8", "surrogatepass"))
    with pytest.raises(Misconfigured, match="URL: "):
        await Tokens().token(TokenSource(Given(f"file://{file}", "URL")))


@pytest.mark.parametrize(("status", "is_refused"), [(400, "yes"), (401, "yes"), (503, "no")])
async def test_a_client_that_is_refused_asks_less_often_than_of_an_endpoint_that_is_away(
    status: int, is_refused: str
) -> None:
    async with endpoint() as there:
        there.status, there.body = status, "{}"
        with pytest.raises(AccessRefused) as told:
            await Tokens().token(there.source)
    assert told.value.of_user is (is_refused == "yes")


async def test_a_url_that_is_none_is_told_without_its_password() -> None:
    for url in ("https://ada:hunter2@idp.example/token", "https://hunter2:99999/x"):
        async with endpoint() as there:
            with pytest.raises(AccessRefused) as told:
                await Tokens().token(replace(there.source, url=Given(url, "URL")))
        assert "hunter2" not in str(told.value)
        assert SECRET not in str(told.value)


def test_tokens_are_given_to_one_event_loop_after_another() -> None:
    tokens = Tokens()

    async def three() -> list[str]:
        async with endpoint() as there:
            source = there.source
            return list(await asyncio.gather(*(tokens.token(source) for _ in range(3))))

    assert [asyncio.run(three()) for _ in range(2)] == [["t-1"] * 3] * 2
