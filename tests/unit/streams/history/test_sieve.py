"""What is passed over unparsed could not have been asked for, whoever wrote it and however."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.schemas.base import DEFAULT_TENANT
from millstream.schemas.dead_letters import WrongShape
from millstream.schemas.events import AgentToken
from millstream.schemas.topics import (
    BASE_TOPICS,
    CHECKPOINTS,
    DEAD_LETTERS,
    REQUESTS,
    TOKENS,
    TopicSpec,
)
from millstream.streams.bus.api import EventFilter
from millstream.streams.bus.record_log import read_entry
from millstream.streams.history.query import HistoryQuery, asked_for
from millstream.streams.history.sieve import _OTHER_FORMS, sieve_of
from millstream.streams.wire.records import dead_letter
from tests import making

KELVIN = "\u212a"
names = st.text(
    st.sampled_from(["K", KELVIN, ";", "\u037e", "`", "/", '"', "\\", "a", "é"]),
    min_size=1,
    max_size=3,
)


def passes(
    wanted: EventFilter, value: bytes | None, *, key: bytes = b"x", spec: TopicSpec = TOKENS
) -> bool:
    sieve = sieve_of(spec, spec.name, wanted)
    one = making.record(value, key=key)
    return sieve is None or list(sieve([one])) == [one]


@st.composite
def values(draw: st.DrawFn) -> bytes:
    """Give a token's value as any writer of JSON might write it."""
    told = []
    for name in (draw(names), draw(names)):
        text = json.dumps(name, ensure_ascii=draw(st.booleans()))
        told.append(text.replace("/", "\\/") if draw(st.booleans()) else text)
    rest = '"session_id": "s", "attempt": 0, "seq": 0, "text": ""'
    return f'{{"user_id": {told[0]}, "request_id": {told[1]}, {rest}}}'.encode()


@given(
    value=values(),
    wanted=st.builds(EventFilter, user_id=st.none() | names, request_id=st.none() | names),
    key=st.sampled_from([b"x", b"K", b"a"]),
)
def test_nothing_that_is_asked_for_is_passed_over(
    value: bytes, wanted: EventFilter, key: bytes
) -> None:
    entry = read_entry(making.record(value, key=key), TOKENS)
    if asked_for(entry, HistoryQuery(topics=(TOKENS,), wanted=wanted)):
        assert passes(wanted, value, key=key)


def test_every_letter_whose_normal_form_is_ascii_is_known() -> None:
    found = {
        unicodedata.normalize("NFC", letter): letter.encode()
        for letter in map(chr, range(0x80, 0x110000))
        if unicodedata.normalize("NFC", letter).isascii()
    }
    assert found == {name: form for name, form in _OTHER_FORMS.items() if name != "/"}


def test_a_dead_letter_is_never_passed_over_for_whom_it_names_stands_in_base64() -> None:
    letter = dead_letter(making.record(b"{}", key=b"ada"), WrongShape("why"), at_ms=1)
    value = letter.model_dump_json().encode()
    for wanted in (EventFilter(user_id="ada"), EventFilter(session_id="s")):
        assert passes(wanted, value, spec=DEAD_LETTERS)


def test_a_record_that_cannot_be_read_is_the_user_s_by_its_key_also_within_a_session() -> None:
    wanted = EventFilter(user_id="ada", session_id="s1")
    assert passes(wanted, b'{"session_id": "s1"}', key=b"ada")
    assert passes(wanted, b'{"session_id": "s1", "user_id": "ada"}')
    assert not passes(wanted, b'{"session_id": "s1"}')
    assert not passes(wanted, b'{"session_id": "s2"}', key=b"ada")


@pytest.mark.parametrize(
    "spec", [one for one in BASE_TOPICS if one is not DEAD_LETTERS], ids=lambda spec: spec.name
)
def test_a_record_of_another_user_is_passed_over_on_each_topic(spec: TopicSpec) -> None:
    value = making.token(user_id="grace").model_dump_json().encode()
    assert not passes(EventFilter(user_id="ada"), value, spec=spec)
    assert passes(EventFilter(user_id="grace"), value, spec=spec)


def test_records_under_a_foreign_key_are_kept_and_unreadable_ones_under_the_user_s() -> None:
    mine = making.token(user_id="ada").model_dump_json().encode()
    assert passes(EventFilter(user_id="ada"), mine, key=b"grace")
    assert passes(EventFilter(user_id="ada"), b"junk", key=b"ada")
    assert passes(EventFilter(user_id="ada"), None, key=b"ada")
    assert not passes(EventFilter(user_id="ada"), b"junk", key=b"grace")
    assert not passes(EventFilter(user_id="ada", request_id="r1"), b"junk", key=b"ada")


def test_a_user_of_a_tenant_is_found_under_its_own_key() -> None:
    wanted = EventFilter(user_id="ada", tenant="acme")
    assert passes(wanted, b"junk", key=b"acme/ada")
    assert not passes(wanted, b"junk", key=b"ada")
    assert EventFilter(user_id="ada", tenant=DEFAULT_TENANT).user_key == "ada"


def test_request_without_an_id_is_found_by_its_address() -> None:
    value = b'{"user_id": "ada", "input": "hi"}'
    for wanted in ({"request_id": "requests-0-0"}, {"session_id": "requests-0-0"}):
        assert passes(EventFilter(**wanted), value, spec=REQUESTS)
        assert not passes(EventFilter(**wanted), value, spec=TOKENS)
    assert not passes(EventFilter(request_id="r1"), value, spec=REQUESTS)


def test_events_that_may_leave_out_their_user_are_kept_for_the_user_they_have_then() -> None:
    assert passes(EventFilter(user_id="unknown"), b"{}", spec=DEAD_LETTERS)


def test_a_session_s_name_in_a_text_is_no_session_but_is_read() -> None:
    value = making.token(text='"s2"', session_id="s1").model_dump_json().encode()
    assert not passes(EventFilter(session_id="s3"), value)
    checkpoint = making.checkpoint(session_id="s2").model_dump_json().encode()
    assert passes(EventFilter(session_id="s2"), checkpoint, spec=CHECKPOINTS)
    assert isinstance(making.token(), AgentToken)
