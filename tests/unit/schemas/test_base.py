from __future__ import annotations

import copy
import pickle

import pytest
from pydantic import TypeAdapter, ValidationError

from millstream.schemas.base import NO_USAGE, Address, Identifier, TenantName, Usage, partition_key
from millstream.schemas.events import AgentRequest
from tests.making import resolved

pytestmark = pytest.mark.rule(11)

identifier: TypeAdapter[str] = TypeAdapter(Identifier)
tenant: TypeAdapter[str] = TypeAdapter(TenantName)


def test_two_spellings_of_one_name_are_one_user() -> None:
    assert identifier.validate_python("Ame\u0301lie") == identifier.validate_python("Am\u00e9lie")


@pytest.mark.parametrize("name", ["", "a\x00b", "a\nb", "a\x1fb", "\ud800", "x" * 257])
def test_a_name_that_is_empty_too_long_or_holds_control_characters_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        identifier.validate_python(name)


@pytest.mark.parametrize(
    ("given", "chars"),
    [
        ("\ufb2c" * 85, 255),
        ("\u0344" * 128, 256),
        ("e\u0301" * 256, 256),
        ("\u1100\u1161\u11a8" * 9, 9),
    ],
    ids=["three-of-one", "two-of-one", "one-of-two", "one-of-three"],
)
def test_a_name_has_its_length_once_it_is_normalised(given: str, chars: int) -> None:
    name = identifier.validate_python(given)
    assert len(name) == chars
    assert identifier.validate_python(name) == name


@pytest.mark.parametrize(
    "name",
    ["\ufb2c" * 86, "\u0344" * 200, "e\u0301" * 257, "\u0344" * 1_000_000],
    ids=["three-of-one", "two-of-one", "one-of-two", "a-million"],
)
def test_a_name_that_becomes_too_long_is_refused_when_it_is_given(name: str) -> None:
    with pytest.raises(ValidationError, match="at most 256 characters"):
        identifier.validate_python(name)


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a" * 65, "é"])
def test_a_tenant_that_could_not_stand_in_a_key_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        tenant.validate_python(name)


def test_the_default_tenants_users_are_keyed_by_their_plain_id() -> None:
    assert partition_key("default", "ada") == "ada"
    assert partition_key("acme", "ada") == "acme/ada"


def test_an_address_reads_as_topic_partition_offset() -> None:
    assert str(Address(topic="m.requests", partition=3, offset=17)) == "m.requests-3-17"


def test_usages_add_up() -> None:
    total = Usage(input_tokens=2, output_tokens=3) + Usage(input_tokens=5)
    assert total == Usage(input_tokens=7, output_tokens=3)


def test_nothing_added_to_a_usage_leaves_it_as_it_is() -> None:
    some = Usage(output_tokens=3)
    assert some + NO_USAGE == NO_USAGE + some == some
    assert (NO_USAGE.is_none, some.is_none) == (True, False)


def test_an_event_cannot_be_changed() -> None:
    request = AgentRequest(user_id="ada", input="hi")
    with pytest.raises(ValidationError, match="frozen"):
        request.input = "bye"  # type: ignore[misc]


def test_nobody_who_is_shown_an_event_changes_its_metadata() -> None:
    """What is shown to an app's code and changed there would be written for everybody."""
    told = resolved("hi", metadata={"a": "b"})
    again = pickle.loads(pickle.dumps(told))  # noqa: S301  its own bytes
    for request in (told, resolved("hi"), copy.deepcopy(told), again):
        with pytest.raises(TypeError, match="make one of your own"):
            request.metadata["x"] = "y"
        with pytest.raises(TypeError, match="make one of your own"):
            request.metadata.update(x="y")
    assert told.metadata == {"a": "b"}
    assert dict(told.metadata) | {"x": "y"} == {"a": "b", "x": "y"}


def test_fields_of_a_later_release_are_ignored() -> None:
    request = AgentRequest.model_validate({"user_id": "ada", "input": "hi", "mood": "good"})
    assert not hasattr(request, "mood")
