"""Events survive the way over the wire; bytes that are none become poison, and nothing else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.schemas.dead_letters import NewerSchema, NotJson, NullValue, WrongShape
from millstream.schemas.errors import Poison
from millstream.schemas.events import AgentRequest, AgentToken, ControlCommand
from millstream.streams.wire.codec import (
    Encoded,
    decode,
    encode,
    header,
    new_traceparent,
    rfc3339,
    traceparent_of,
)
from millstream.streams.wire.records import InputRecord
from tests import making
from tests.making import record

TOKEN = making.token(request_id="r", seq=3, text="hé", at_ms=1500)


def read_back(encoded: Encoded) -> InputRecord:
    return record(encoded.value, key=encoded.key, headers=tuple(encoded.headers))


def test_an_event_read_back_is_the_event_that_was_written() -> None:
    assert decode(read_back(encode(TOKEN, source="/x")), AgentToken) == TOKEN


def test_the_headers_are_cloud_events_in_binary_mode() -> None:
    headers = dict(encode(TOKEN, source="/ns/chain/0").headers)
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_type"] == b"io.millstream.token"
    assert headers["ce_source"] == b"/ns/chain/0"
    assert headers["ce_id"] == b"r:1000:3"
    assert headers["ce_subject"] == b"ada"
    assert headers["ce_time"] == b"1970-01-01T00:00:01.500Z"
    assert headers["content-type"] == b"application/json"


def test_an_events_size_is_at_least_what_it_takes_on_the_wire() -> None:
    encoded = encode(TOKEN, source="/x")
    content = sum(len(name) + len(value) for name, value in encoded.headers)
    assert encoded.size_bytes > len(encoded.key) + len(encoded.value or b"") + content


@pytest.mark.parametrize(
    ("value", "poison", "told"),
    [
        (None, NullValue, "no value"),
        (b"", NotJson, "not JSON"),
        (b"\xff\xfe", NotJson, "not JSON"),
        (b'{"user_id": "\\ud800", "input": "x"}', NotJson, "not JSON"),
        (b"[" * 100_000, NotJson, "not JSON"),
        (b"[1]", WrongShape, "JSON list"),
        (b'"x"', WrongShape, "JSON str"),
        (b'{"user_id": "ada"}', WrongShape, "input: Field required"),
        (b'{"user_id": "", "input": "x"}', WrongShape, "user_id"),
        (b'{"user_id": "a\\u0000", "input": "x"}', WrongShape, "control characters"),
        (b'{"user_id": "ada", "input": "x", "type": "token"}', WrongShape, "type"),
        (b'{"user_id": "ada", "input": "x", "schema_version": 2}', NewerSchema, "upgrade"),
        (b'{"schema_version": 2, "renamed": true}', NewerSchema, "upgrade"),
    ],
)
def test_what_cannot_be_read_says_what_is_wrong(
    value: bytes | None, poison: type[Poison], told: str
) -> None:
    with pytest.raises(poison, match=told):
        decode(record(value), AgentRequest)


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_but_poison(value: bytes) -> None:
    with pytest.raises(Poison):
        decode(record(value), AgentRequest)


def test_fields_that_are_not_known_are_ignored() -> None:
    read = decode(record({"user_id": "ada", "input": "x", "colour": "red"}), AgentRequest)
    assert read == making.request(input="x")


@pytest.mark.promise("P7")
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (b'{"user_id": "ada", "input": "a", "input": "b"}', "'input' is given twice"),
        (b'{"user_id": "ada", "user_id": "eve", "input": "x"}', "'user_id' is given twice"),
        (b'{"user_id": "ada", "input": "a", "\\u0069nput": "a"}', "'input' is given twice"),
        (b'{"user_id": "ada", "input": "x", "metadata": {"s3": "1", "s3": "2"}}', "a key is given"),
        (b'{"user_id": "ada", "input": "x", "not": [{"s3": 1, "s3": 1}]}', "a key is given"),
    ],
    ids=["same-field", "user", "spelt-otherwise", "metadata", "unknown-field"],
)
def test_a_request_with_a_key_twice_is_not_read_as_either(value: bytes, named: str) -> None:
    with pytest.raises(WrongShape, match=named) as told:
        decode(record(value), AgentRequest)
    assert "s3" not in str(told.value)


def test_a_command_with_a_key_twice_is_not_obeyed() -> None:
    value = b'{"user_id": "ada", "command": "cancel", "request_id": "a", "request_id": "b"}'
    with pytest.raises(WrongShape, match="'request_id' is given twice"):
        decode(record(value), ControlCommand)


@pytest.mark.parametrize(
    "rest",
    [
        b'"n": ' + b"9" * 4_000,
        b'"n": 1e999',
        b'"n": ' + b"[" * 150 + b"]" * 150,
        b'"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 2}]',
        '"é": 1, "e\u0301": 2, "\\ud83d\\ude00": 3'.encode(),
    ],
    ids=["long-integer", "infinite", "deep", "in-different-objects", "almost-the-same"],
)
def test_a_request_without_a_key_twice_is_read_whatever_else_it_holds(rest: bytes) -> None:
    value = b'{"user_id": "ada", "input": "x", ' + rest + b"}"
    assert decode(record(value), AgentRequest).input == "x"


def test_of_headers_of_one_name_the_last_one_counts() -> None:
    twice = record(b"", headers=(("h", b"1"), ("other", None), ("h", b"2")))
    assert header(twice, "h") == b"2"
    assert header(twice, "none") is None


@pytest.mark.parametrize(
    "given_",
    [
        None,
        b"",
        b"\xff",
        b"00-" + b"0" * 32 + b"-" + b"1" * 16 + b"-01",
        b"00-" + b"1" * 32 + b"-" + b"0" * 16 + b"-01",
        b"00-" + b"1" * 31 + b"-" + b"1" * 16 + b"-01",
    ],
)
def test_a_trace_context_that_is_none_starts_a_new_trace(given_: bytes | None) -> None:
    headers = () if given_ is None else (("traceparent", given_),)
    found = traceparent_of(record(b"", headers=headers))
    assert found != given_
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", found)


def test_a_valid_trace_context_is_passed_on() -> None:
    given_ = new_traceparent()
    assert traceparent_of(record(b"", headers=(("traceparent", given_),))) == given_


@pytest.mark.parametrize("at_ms", [0, 1, 253_402_300_799_999, 10**18, 10**400])
def test_any_time_that_a_record_can_hold_can_be_written(at_ms: int) -> None:
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", rfc3339(at_ms))
