"""A record becomes a request that keeps its identity, or a dead letter that fits into a record."""

from __future__ import annotations

import base64
import json

import pytest

from millstream.schemas.base import Address, Reason
from millstream.schemas.dead_letters import NotJson, RecordTooLarge
from millstream.schemas.errors import Poison
from millstream.schemas.events import Redriven
from millstream.schemas.topics import DEAD_LETTERS, INPUT_BYTES_MAX
from millstream.streams.wire.codec import ORIGIN, REDRIVEN, encode
from millstream.streams.wire.records import (
    DEAD_LETTER_BYTES_MAX,
    MOVED_BYTES_MAX,
    InputRecord,
    arrived_ms,
    dead_letter,
    origin_header,
    read_request,
    unreadable_places,
    with_kept_headers,
)
from tests import making
from tests.making import Headers, record

pytestmark = pytest.mark.rule(12)

MINIMUM = {"user_id": "ada", "input": "x"}


def test_what_the_bare_minimum_leaves_out_comes_from_the_records_own_place() -> None:
    request = read_request(record(MINIMUM))
    assert request.request_id == request.session_id == "requests-2-7"
    assert (request.tenant, request.template) == ("default", "chat_agent")
    assert (request.at_ms, request.source.offset) == (5000, 7)


def test_an_upstreams_own_time_and_place_are_not_believed() -> None:
    lying = {**MINIMUM, "at_ms": 1, "source": {"topic": "x", "partition": 0, "offset": 0}}
    request = read_request(record(lying))
    assert request.at_ms == 5000
    assert str(request.source) == "requests-2-7"


def test_a_request_put_at_its_partition_is_the_same_request() -> None:
    first = read_request(record(MINIMUM, partition=1))
    again = read_request(record(MINIMUM, offset=99, headers=(origin_header(first.source),)))
    assert again == first


@pytest.mark.parametrize(
    "given", [b"", b"{}", b"null", b"\xff", b'{"source": 1, "at_ms": 1}', None]
)
@pytest.mark.parametrize("name", [ORIGIN, REDRIVEN])
def test_a_header_that_names_no_place_is_passed_over_and_its_request_served(
    name: str, given: bytes | None
) -> None:
    given_so = record(MINIMUM, headers=((name, given),))
    assert read_request(given_so) == read_request(record(MINIMUM))
    assert arrived_ms(given_so) == 5000
    assert unreadable_places(given_so) == (name,)


def test_a_place_counts_though_a_header_of_its_name_names_none() -> None:
    first = Address(topic="requests", partition=5, offset=3)
    garbage = (ORIGIN, b"garbage")
    for headers in ((origin_header(first), garbage), (garbage, origin_header(first))):
        assert read_request(record(MINIMUM, headers=headers)).source == first
        assert unreadable_places(record(MINIMUM, headers=headers)) == ()


def test_a_redriven_record_keeps_its_id_though_its_origin_names_no_place() -> None:
    first = Address(topic="requests", partition=2, offset=3)
    headers = ((ORIGIN, b"garbage"), redriven(first, first))
    request = read_request(record(MINIMUM, headers=headers))
    assert (request.request_id, request.source) == ("requests-2-3", first)
    assert unreadable_places(record(MINIMUM, headers=headers)) == (ORIGIN,)


@pytest.mark.parametrize(
    "source",
    [
        Address(topic="elsewhere", partition=5, offset=3),
        Address(topic="requests", partition=2, offset=3),
    ],
    ids=["another-topic", "this-partition"],
)
def test_an_origin_that_cannot_be_true_gives_no_identity(source: Address) -> None:
    forged = (ORIGIN, f'{{"source": {source.model_dump_json()}, "at_ms": 1}}'.encode())
    request = read_request(record(MINIMUM, headers=(forged,)))
    assert request.source == Address(topic="requests", partition=2, offset=7)


def test_an_origin_gives_no_time() -> None:
    source = Address(topic="requests", partition=5, offset=3)
    origin = f'{{"source": {source.model_dump_json()}, "at_ms": 253370764800000}}'.encode()
    request = read_request(record(MINIMUM, headers=((ORIGIN, origin),)))
    assert (request.source, request.at_ms) == (source, 5000)


def redriven(source: Address, buried: Address) -> tuple[str, bytes]:
    return REDRIVEN, Redriven(source=source, buried=buried).model_dump_json().encode()


@pytest.mark.parametrize("partition", [2, 5], ids=["the-originals-partition", "put-right"])
def test_a_redriven_record_keeps_the_id_of_where_it_first_stood(partition: int) -> None:
    first = Address(topic="requests", partition=2, offset=3)
    request = read_request(record(MINIMUM, partition=partition, headers=(redriven(first, first),)))
    assert (request.request_id, request.source) == ("requests-2-3", first)
    assert request.at_ms == 5000


def test_a_redriven_record_that_is_put_right_is_the_same_request_there() -> None:
    first = Address(topic="requests", partition=2, offset=3)
    header = redriven(first, first)
    here = read_request(record(MINIMUM, headers=(header,)))
    there = read_request(record(MINIMUM, partition=5, headers=(header, origin_header(here.source))))
    assert there == here


@pytest.mark.parametrize(
    "source",
    [
        Address(topic="elsewhere", partition=2, offset=3),
        Address(topic="requests", partition=2, offset=7),
        Address(topic="requests", partition=2, offset=8),
    ],
    ids=["another-topic", "itself", "later"],
)
def test_a_redrive_that_cannot_be_true_gives_no_identity(source: Address) -> None:
    request = read_request(record(MINIMUM, headers=(redriven(source, source),)))
    assert request.source == Address(topic="requests", partition=2, offset=7)


def test_a_request_too_large_to_be_written_about_is_poison() -> None:
    fits = {**MINIMUM, "metadata": {"x" * (INPUT_BYTES_MAX - 200): ""}}
    read_request(record(fits))
    with pytest.raises(RecordTooLarge, match="at most"):
        read_request(record({**MINIMUM, "metadata": {"x" * INPUT_BYTES_MAX: ""}}))


def test_the_limit_counts_key_value_and_headers_and_nothing_else() -> None:
    start = b'{"user_id": "ada", "input": "'
    rest = INPUT_BYTES_MAX - len(start) - len(b'"}') - len(b"ada") - len(b"x-ab" + b"vw")
    headers = (("x-a", b"vw"), ("b", None))
    fits = record(start + b"x" * rest + b'"}', headers=headers)
    assert fits.size_bytes == INPUT_BYTES_MAX
    read_request(fits)
    with pytest.raises(RecordTooLarge, match=f"has {INPUT_BYTES_MAX + 1} bytes"):
        read_request(record(start + b"x" * (rest + 1) + b'"}', headers=headers))


@pytest.mark.parametrize(
    ("key", "value", "headers", "words"),
    [
        (b"k" * 960_000, b"{}", (), "key 960000, value 2, 0 headers 0.*: key it by its user"),
        (b"k", b"x" * 960_000, (), "key 1, value 960000, 0 headers 0.*: shorten it"),
        (None, b"{}", (("h", b"x" * 960_000),), "1 headers 960001.*fewer or shorter headers"),
    ],
    ids=["key", "value", "headers"],
)
def test_what_is_too_large_says_what_of_it_is(
    key: bytes | None, value: bytes, headers: Headers, words: str
) -> None:
    with pytest.raises(RecordTooLarge, match=words):
        read_request(record(value, key=key, headers=headers))


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", b"x" * INPUT_BYTES_MAX),
        ("ce_x", b"x" * INPUT_BYTES_MAX),
        (ORIGIN, b"x" * (INPUT_BYTES_MAX + MOVED_BYTES_MAX)),
        ("\x01" * INPUT_BYTES_MAX, None),
        ("\u00e9" * (INPUT_BYTES_MAX // 2), b""),
    ],
    ids=["dropped", "kept", "place", "name", "name-of-two-bytes-each"],
)
def test_each_byte_of_a_header_counts(header: tuple[str, bytes | None]) -> None:
    with pytest.raises(RecordTooLarge, match="at most"):
        read_request(record(MINIMUM, headers=(header,)))


def test_very_many_small_headers_count() -> None:
    headers = tuple((f"x{number}", b"") for number in range(100_000))
    with pytest.raises(RecordTooLarge, match="at most"):
        read_request(record(MINIMUM, headers=headers))


@pytest.mark.parametrize("name", [ORIGIN, REDRIVEN])
def test_what_a_move_adds_does_not_make_a_request_too_large(name: str) -> None:
    value = json.dumps({**MINIMUM, "metadata": {"x" * 949_700: ""}}).encode()
    as_it_came = record(value, key=None)
    assert as_it_came.size_bytes <= INPUT_BYTES_MAX
    first = Address(topic="r" * 249, partition=5, offset=2**60)
    places: dict[str, tuple[str, bytes]] = {
        ORIGIN: origin_header(first, 253_402_300_799_999),
        REDRIVEN: redriven(first, first),
    }
    trace = ("tracestate", b"x" * 512), ("traceparent", b"x" * 55)
    key = ("a" * 64 + "/" + "\U0001f600" * 256).encode()
    moved = record(value, key=key, headers=(places[name], *trace))
    assert moved.size_bytes > INPUT_BYTES_MAX
    assert read_request(moved).metadata == read_request(as_it_came).metadata


def test_a_header_longer_than_any_place_names_none() -> None:
    first = Address(topic="requests", partition=5, offset=3)
    name, place = origin_header(first)
    odd = record(MINIMUM, headers=((name, place + b" " * 2_048),))
    assert read_request(odd).source == odd.address
    assert unreadable_places(odd) == (ORIGIN,)


def test_a_dead_letter_holds_the_whole_record_but_headers_that_may_be_secret() -> None:
    headers = (("ce_h", b"\xfe"), ("Authorization", b"Bearer s3cret"), ("ce_none", None))
    hostile = record(b"\xff", key=b"\x00/../", headers=headers)
    letter = dead_letter(hostile, NotJson("why"), at_ms=6000)
    assert letter.source == Address(topic="requests", partition=2, offset=7)
    assert (letter.reason.code, letter.reason.message) == ("not_json", "why")
    assert base64.b64decode(letter.value or "") == b"\xff"
    assert base64.b64decode(letter.key or "") == b"\x00/../"
    assert letter.headers == (("ce_h", base64.b64encode(b"\xfe").decode()), ("ce_none", None))
    assert (letter.headers_dropped, letter.headers_dropped_count) == (("Authorization",), 1)
    assert (letter.at_ms, letter.source_at_ms) == (6000, 5000)


def test_null_and_empty_stay_apart_in_a_dead_letter() -> None:
    letter = dead_letter(record(None, key=b""), NotJson("why"), at_ms=1)
    assert (letter.value, letter.key) == (None, "")


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"x" * (DEAD_LETTER_BYTES_MAX - 3), ()),
        (b"x" * 1_048_576, ()),
        (b"", (("ce_h", b"x" * 1_048_000),)),
        (b"", ((ORIGIN, b"x" * 1_390_000),)),
        (b"x" * 1_300_000, ((ORIGIN, b"x" * 700_000),)),
        (b"", tuple((f"ce_{number}", b"") for number in range(200_000))),
        (b"", tuple((f"header{number}", b"") for number in range(200_000))),
        (b"x" * 1_390_000, tuple((f"{'x' * 30}-{'y' * 30}{n}", b"") for n in range(1000))),
        (b"x" * 1_390_000, (("authorization", b"x" * 1_000_000),)),
        (b"", (("\x01" * 500_000, None),)),
    ],
    ids=[
        "largest-kept",
        "value",
        "header",
        "place",
        "value-and-place",
        "many-headers",
        "many-dropped",
        "long-names",
        "large-dropped",
        "escaped-name",
    ],
)
def test_a_dead_letter_always_fits_into_a_record(value: bytes, headers: Headers) -> None:
    letter = dead_letter(record(value, headers=headers), Poison("why"), at_ms=1)
    assert encode(letter, source="/test").size_bytes <= DEAD_LETTERS.record_bytes_max


def test_a_record_is_kept_whole_however_large_the_headers_that_are_dropped() -> None:
    headers = (("authorization", b"x" * DEAD_LETTER_BYTES_MAX), ("\x01" * 500_000, None))
    letter = dead_letter(record(b"value", headers=headers), Poison("why"), at_ms=1)
    assert letter.value == base64.b64encode(b"value").decode()
    assert (letter.headers_dropped, letter.headers_dropped_count) == (("authorization",), 2)


def test_a_record_too_large_to_be_kept_leaves_its_address_and_the_names_of_its_headers() -> None:
    large = record(b"x" * 1_500_000, headers=(("cookie", b"s3cret"), ("ce_id", b"1")))
    letter = dead_letter(large, Poison("why"), at_ms=1)
    assert (letter.value, letter.headers) == (None, ())
    assert base64.b64decode(letter.key or "") == b"ada"
    assert (letter.headers_dropped, letter.headers_dropped_count) == (("cookie",), 1)
    assert "requests-2-7" in letter.reason.message


def test_a_key_that_is_no_user_s_is_not_kept_of_a_record_too_large_to_be() -> None:
    letter = dead_letter(record(b"x" * 1_500_000, key=b"k" * 2_049), Poison("why"), at_ms=1)
    assert (letter.value, letter.key) == (None, None)


def test_a_dead_letter_of_an_earlier_version_is_shown_without_its_secrets() -> None:
    old = making.dead_letter(
        reason=Reason(code="not_json", message="why"),
        source=Address(topic="requests", partition=2, offset=7),
        source_at_ms=5000,
        value="e30=",
        headers=(("ce_id", "MQ=="), ("cookie", "czNjcmV0"), ("\x1b[2J", None)),
    )
    shown = with_kept_headers(old)
    assert shown.headers == (("ce_id", "MQ=="),)
    assert (shown.headers_dropped, shown.headers_dropped_count) == (("cookie",), 2)
    assert shown.value == old.value
    assert with_kept_headers(shown) is shown


def test_what_was_put_right_came_when_its_header_says_and_no_other_time_is_believed() -> None:
    elsewhere = Address(topic="requests", partition=1, offset=3)

    def moved(at_ms: int | None, source: Address = elsewhere) -> InputRecord:
        return record(b"{}", headers=(origin_header(source, at_ms),))

    assert arrived_ms(record(b"{}")) == 5000
    assert arrived_ms(moved(4000)) == 4000
    assert arrived_ms(moved(None)) == 5000  # moved by an earlier version
    assert arrived_ms(moved(6000)) == 5000  # nothing comes before it is published
    here = Address(topic="requests", partition=2, offset=3)
    assert arrived_ms(moved(4000, here)) == 5000  # it was not moved
