"""What leaves with a record is on a list; what stays behind is named, unless its name is a secret.

The cases are kinds of leaks that others had: headers that travel through every retry into the
dead-letter topic and pile up there, lists of secrets that lack one, another spelling, baggage.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.schemas.base import Address
from millstream.streams.wire.codec import ORIGIN, REDRIVEN, encode
from millstream.streams.wire.headers import (
    NAMES_MAX,
    NO_HEADERS,
    DroppedHeaders,
    dropped_headers,
    forwarded_headers,
    is_kept,
)
from millstream.streams.wire.records import origin_header
from millstream.streams.wire.trace import TRACEPARENT
from tests import making
from tests.making import Headers

SECRET = b"Bearer s3cret"
TRACE = b"00-" + b"4b" * 16 + b"-" + b"a7" * 8 + b"-01"


@pytest.mark.parametrize(
    "name",
    [
        "content-type",
        "traceparent",
        "tracestate",
        "ce_id",
        "ce_specversion",
        "ce_partitionkey",
        "ce_my_extension.v2",
        ORIGIN,
        REDRIVEN,
        "millstream-of-a-later-release",
    ],
)
def test_what_says_what_a_record_is_is_kept(name: str) -> None:
    assert is_kept(name)
    trace = (TRACEPARENT, TRACE)
    value = b"vendor=1" if name == "tracestate" else TRACE
    assert (name, value) in forwarded_headers([trace, (name, value)])
    assert dropped_headers([(name, value)]) == NO_HEADERS


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-api-key",
        "x-amz-security-token",
        "es-secondary-authorization",
        "baggage",
        "uberctx-user",
        "spring_json_header_types",
        "kafka_dlt-exception-stacktrace",
        "__connect.errors.exception.message",
        "NServiceBus.ExceptionInfo.Message",
        "MT-Fault-StackTrace",
        "x-retries",
    ],
)
def test_a_header_that_is_not_on_the_list_is_dropped_and_named(name: str) -> None:
    assert forwarded_headers([(name, SECRET)]) == []
    assert dropped_headers([(name, SECRET)]) == DroppedHeaders((name,), 1)


@pytest.mark.parametrize(
    "name",
    [
        "Content-Type",
        "TRACEPARENT",
        "Ce_id",
        "CE_ID",
        "ce-id",
        "Millstream-Origin",
        "xce_id",
        "x-traceparent",
        "traceparent-authorization",
        "content-type.authorization",
        "millstream_origin",
    ],
)
def test_a_name_that_is_only_like_one_on_the_list_is_dropped(name: str) -> None:
    assert not is_kept(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ce_",
        "millstream-",
        "ce_id\n",
        "ce_id\x00",
        "traceparent\n",
        " traceparent",
        "ce_\x1b[2Jid",
        "ce_id: Bearer s3cret",
        "millstream-\u202eorigin",
        "ce_\uff49d",
        r"ce_\xff\xfe",
        "ce_" + "x" * 65,
        "millstream-" + "x" * 1_000_000,
    ],
    ids=lambda name: ascii(name[:24]),
)
def test_a_name_that_begins_like_a_kept_one_and_holds_anything_else_is_counted_only(
    name: str,
) -> None:
    assert not is_kept(name)
    assert dropped_headers([(name, b"x")]).count == 1
    assert all(one.isprintable() and one.isascii() for one in dropped_headers([(name, b"")]).names)


@pytest.mark.parametrize(
    "name",
    [
        "Bearer s3cret",
        "s3cret",
        "authorization: Bearer s3cret",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP",
        "sk-4f0c9a1b7d",
        "sk-abcdefghijklmnop",
        "sk-abcdefghijSECRETNAMEklmnop",
        "bearer-AbCdEfGhIjKlMnOpQr",
        "Bearer-token",
        "abcdefghijklmnopqrstuvwxyz",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "x-9a3f0c6de1",
        "pa\x07ss",
        "x" * 33,
        "token\n",
        "geheim-ß",
        r"\xff\xfe\x80",
    ],
    ids=lambda name: ascii(name[:24]),
)
def test_a_name_that_may_be_a_secret_itself_is_counted_and_not_told(name: str) -> None:
    assert forwarded_headers([(name, b"")]) == []
    assert dropped_headers([(name, b"")]) == DroppedHeaders((), 1)


def test_ten_thousand_headers_leave_a_bounded_list_and_their_number() -> None:
    numbered = [(f"x-{'abcdefghij'[n % 10]}-{n % 1000}", SECRET) for n in range(10_000)]
    worded = [(f"x-header{n % 1000}", SECRET) for n in range(10_000)]
    assert dropped_headers(numbered) == DroppedHeaders((), 10_000)
    told = dropped_headers(worded)
    assert told.names == tuple(f"x-header{n}" for n in range(NAMES_MAX))
    assert told.count == 10_000


def test_a_name_that_comes_twice_is_named_once_and_counted_twice() -> None:
    twice = [("cookie", b"a"), ("ce_x", b"1"), ("cookie", None), ("ce_x", b"2")]
    assert dropped_headers(twice) == DroppedHeaders(("cookie",), 2)
    assert forwarded_headers(twice) == [("ce_x", b"1"), ("ce_x", b"2")]


def test_a_header_without_a_value_cannot_be_written_again() -> None:
    headers: Headers = (("ce_x", None), ("ce_y", b""))
    assert forwarded_headers(headers) == [("ce_y", b"")]


def test_headers_do_not_pile_up_however_often_a_record_is_moved() -> None:
    place = Address(topic="requests", partition=1, offset=3)
    headers: list[tuple[str, bytes]] = [(TRACEPARENT, TRACE), ("cookie", SECRET)]
    for _ in range(5):
        headers = [*forwarded_headers(headers, replaced=(ORIGIN,)), origin_header(place, 5)]
    assert headers == [(TRACEPARENT, TRACE), origin_header(place, 5)]


def test_all_headers_that_millstream_writes_are_kept() -> None:
    written = encode(making.request(input="x"), source="/test").headers
    assert forwarded_headers(written) == written


@given(st.lists(st.tuples(st.text(max_size=80), st.none() | st.binary(max_size=8))))
def test_every_header_is_kept_or_counted_and_nothing_but_words_is_named(
    headers: list[tuple[str, bytes | None]],
) -> None:
    told = dropped_headers(headers)
    assert told.count + sum(is_kept(name) for name, _ in headers) == len(headers)
    assert len(told.names) <= NAMES_MAX
    assert {name for name, _ in forwarded_headers(headers)}.isdisjoint(told.names)
    for name in told.names:
        assert len(name) <= 64
        assert name.replace("-", "").replace("_", "").replace(".", "").isalnum()
