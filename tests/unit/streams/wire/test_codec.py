"""Events survive the way over the wire; bytes that are none become poison, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.schemas.any_event import any_event
from millstream.schemas.base import Event
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.dead_letters import NewerSchema, NotJson, NullValue, WrongShape
from millstream.schemas.errors import Poison
from millstream.schemas.events import AgentRequest, AgentToken
from millstream.schemas.lane_events import HoldPlaced
from millstream.streams.wire.codec import (
    Encoded,
    decode,
    encode,
    header,
    rfc3339,
    trace_of,
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
    assert headers["ce_id"] == b"default/ada/token/r:1000:3"
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


@pytest.mark.parametrize("at_ms", [0, 1, 253_402_300_799_999, 10**18, 10**400])
def test_any_time_that_a_record_can_hold_can_be_written(at_ms: int) -> None:
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", rfc3339(at_ms))


BINARY = b'{"user_id": "ada", "input": "hi"}'
STRUCTURED = (
    b'{"specversion": "1.0", "id": "1", "source": "/crm", "type": "t", '
    b'"data": {"user_id": "ada", "input": "hi"}}'
)
BOTH = b'{"specversion": "1.0", "user_id": "ada", "input": "hi"}'


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (STRUCTURED, b"application/cloudevents+json"),
        (STRUCTURED, b"Application/CloudEvents+JSON; charset=UTF-8"),
        (b"[" + STRUCTURED + b"]", b"application/cloudevents-batch+json"),
        (b"\x00Obj", b"application/cloudevents+avro"),
        (BINARY, b"application/cloudevents+json"),
        (STRUCTURED, b"application/json"),
        (STRUCTURED, None),
        (BOTH, None),
    ],
)
def test_a_structured_cloud_event_is_refused_with_what_to_send_instead(
    value: bytes, content_type: bytes | None
) -> None:
    headers = () if content_type is None else (("content-type", content_type),)
    with pytest.raises(WrongShape, match=r"structured CloudEvent.*binary mode.*application/json"):
        decode(record(value, headers=headers), AgentRequest)


@pytest.mark.parametrize("content_type", [b"application/json", b"text/plain", b"", b"\xff"])
def test_any_other_content_type_is_read(content_type: bytes) -> None:
    headers = (("content-type", content_type),)
    assert decode(record(BINARY, headers=headers), AgentRequest).input == "hi"


def ce_id(event: Event) -> bytes:
    return dict(encode(event, source="/x").headers)["ce_id"]


def test_no_two_users_sessions_or_kinds_share_an_id() -> None:
    users = (
        {},
        {"user_id": "eve"},
        {"tenant": "a", "user_id": "b/c"},
        {"tenant": "a", "user_id": "b%2Fc"},
        {"user_id": "a/b/c"},
    )
    events: list[Event] = [
        maker(**user)
        for user in users
        for maker in (making.result, making.decision, making.attempt, making.cost, making.token)
    ]
    events += [making.step(**user) for user in users]
    events += [making.checkpoint(**user, session_id=one) for user in users for one in ("s", "t")]
    for target in ("request_id", "session_id"):
        events += [
            ControlCommand(user_id="ada", command="pause", at_ms=1, **{target: "x"}),
            HoldPlaced(user_id="ada", at_ms=1, **{target: "x"}),
        ]
    events += [
        making.cost(request_id="r:1000:cost:x", model="y"),
        making.cost(request_id="r", model="x:1000:cost:y"),
    ]
    assert len({ce_id(event) for event in events}) == len(events)


def test_a_request_without_an_id_has_an_event_id_all_the_same() -> None:
    first, second = (ce_id(making.request()) for _ in range(2))
    assert first.startswith(b"default/ada/request/")
    assert first != second
    assert ce_id(making.request(request_id="r1")) == b"default/ada/request/r1"


def test_a_source_that_is_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="source"):
        encode(TOKEN, source="")


RELEASED = sorted(Path(__file__).with_name("released").glob("*.jsonl"))


@pytest.mark.parametrize("release", RELEASED, ids=lambda path: path.stem)
def test_every_record_of_a_release_is_read_as_what_it_was(release: Path) -> None:
    read: set[str] = set()
    for line in release.read_text("utf-8").splitlines():
        kept = json.loads(line)
        headers = tuple((name, value.encode()) for name, value in kept["headers"])
        known = any_event.validate_json(kept["value"])
        raw = record(kept["value"].encode(), key=kept["key"].encode(), headers=headers)
        event = decode(raw, type(known))
        assert event == known
        assert event.record_key == kept["key"]
        written = json.loads(kept["value"])
        again = json.loads(encode(event, source="/x").value or b"")
        assert written.items() <= again.items()
        assert trace_of(raw).parent == b"00-" + b"4b" * 16 + b"-" + b"a7" * 8 + b"-01"
        read.add(written["type"])
    schemas = Path("docs/reference/released", release.stem).glob("*.json")
    # Events that came since have no record of then.
    assert read >= {path.stem for path in schemas} - {"asyncapi"}
