"""A record that is put back has the headers that are kept, whoever wrote its dead letter."""

from __future__ import annotations

import base64

import pytest

from millstream.schemas.base import Address, Reason
from millstream.schemas.dead_letters import DeadLetter, NotJson, RecordTooLarge, WrongShape
from millstream.schemas.events import Redriven
from millstream.streams.history.dead_letters import Buried
from millstream.streams.history.redrive import _kept, _key_for, _put_back
from millstream.streams.wire.codec import ORIGIN, REDRIVEN
from millstream.streams.wire.headers import forwarded_headers
from millstream.streams.wire.records import dead_letter, origin_header, read_request
from tests import making
from tests.making import record

SECRET = b"Bearer s3cret"
TRACE = b"00-" + b"4b" * 16 + b"-" + b"a7" * 8 + b"-01"
FIRST = Address(topic="requests", partition=5, offset=3)
HEADERS = (
    ("traceparent", TRACE),
    ("authorization", SECRET),
    ("ce_id", b"1"),
    ("ce_id", b"2"),
    ("ce_none", None),
    origin_header(FIRST),
)
REASON = Reason(code="record_too_large", message="why")
VALUE = b'{"user_id": "ada", "input": "x"}'


def old_letter() -> DeadLetter:
    """Give a dead letter as the last release wrote it: with every header."""
    return making.dead_letter(
        reason=Reason(code="not_json", message="why"),
        source=Address(topic="requests", partition=2, offset=7),
        source_at_ms=5000,
        value=base64.b64encode(VALUE).decode(),
        headers=tuple(
            (name, None if value is None else base64.b64encode(value).decode())
            for name, value in HEADERS
        ),
    )


@pytest.mark.parametrize(
    "letter",
    [dead_letter(record(VALUE, headers=HEADERS), NotJson("why"), at_ms=1), old_letter()],
    ids=["new", "of-the-last-release"],
)
def test_a_record_is_put_back_as_the_same_request_without_its_secrets(letter: DeadLetter) -> None:
    original = _kept(letter)
    assert original is not None
    buried = Buried(letter.source, 1, letter.source, letter.reason, None, None)
    again = _put_back(original, buried)
    *kept, (name, value) = again.headers
    assert kept == [("ce_id", b"1"), ("ce_id", b"2"), ("traceparent", TRACE)]
    assert name == REDRIVEN
    assert Redriven.model_validate_json(value or b"") == Redriven(
        source=FIRST, buried=letter.source
    )
    assert read_request(again).source == read_request(record(VALUE, headers=HEADERS)).source


def test_a_record_that_is_put_back_again_and_again_does_not_grow() -> None:
    letter = dead_letter(record(VALUE, headers=HEADERS), NotJson("why"), at_ms=1)
    once = _kept(letter)
    assert once is not None
    buried = Buried(letter.source, 1, letter.source, letter.reason, None, None)
    sizes = set()
    for _ in range(5):
        once = _put_back(once, buried)
        sizes.add(once.size_bytes)
        assert [name for name, _ in once.headers].count(REDRIVEN) == 1
        assert ORIGIN not in dict(once.headers)
        assert len(forwarded_headers(once.headers)) == len(once.headers)
    assert len(sizes) == 1


def test_a_key_that_is_no_user_s_gives_way_to_the_mended_value_s_user() -> None:
    large = b"k" * 960_000
    assert _key_for(large, VALUE) == b"ada"
    assert _key_for(large, b'{"user_id": "ada", "tenant": "acme", "input": "x"}') == b"acme/ada"
    assert _key_for(large, b"junk") == large
    assert _key_for(b"other", VALUE) == b"other"
    assert _key_for(None, VALUE) is None


def test_a_record_whose_headers_are_too_large_is_put_back_without_them() -> None:
    given = (("ce_id", b"x" * 960_000), origin_header(FIRST))
    original = record(VALUE, headers=given)
    buried = Buried(original.address, 1, original.address, REASON, None, None)
    with pytest.raises(RecordTooLarge, match="fewer or shorter headers"):
        read_request(_put_back(original, buried))
    again = _put_back(original, buried, keeps_headers=False)
    assert [name for name, _ in again.headers] == [REDRIVEN]
    assert read_request(again).source == FIRST  # and is the same request


def test_a_structured_cloud_event_that_was_mended_is_put_back_as_a_request() -> None:
    given = (("content-type", b"application/cloudevents+json"), ("ce_id", b"1"))
    letter = dead_letter(record(VALUE, headers=given), WrongShape("why"), at_ms=1)
    original = _kept(letter)
    assert original is not None
    buried = Buried(letter.source, 1, letter.source, letter.reason, None, None)
    again = _put_back(original, buried)
    assert read_request(again).input == "x"
    assert [name for name, _ in again.headers] == ["ce_id", REDRIVEN]
