from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from millstream.schemas.any_event import EVENT_TYPES, AnyEvent, any_event
from millstream.schemas.base import Address, Event
from millstream.schemas.documents.contract import event_name
from millstream.schemas.events import (
    AgentRequest,
    AgentResult,
    AgentToken,
    Decision,
    SessionUpdated,
)

pytestmark = pytest.mark.rule(11)

ADDRESS = Address(topic="m.requests", partition=1, offset=42)
OF_A_RUN = {"user_id": "ada", "request_id": "r", "session_id": "s"}


def test_the_union_and_the_list_of_events_are_the_same() -> None:
    assert set(get_args(get_args(AnyEvent)[0])) == set(EVENT_TYPES)


def test_every_events_type_is_its_own() -> None:
    assert len({event_name(event) for event in EVENT_TYPES}) == len(EVENT_TYPES)


def test_an_event_is_read_by_its_type() -> None:
    token = any_event.validate_python(
        {"type": "token", **OF_A_RUN, "attempt": 0, "seq": 0, "text": "Hi"}
    )
    assert isinstance(token, AgentToken)


def test_a_requests_digest_is_what_it_asks_and_not_how_it_is_asked() -> None:
    asked = {"user_id": "ada", "input": "hi", "request_id": "r", "session_id": "s"}
    first = AgentRequest.model_validate(asked).resolved(ADDRESS, 1000)
    later = {**asked, "deadline_ms": 5, "metadata": {"try": "2"}}
    assert AgentRequest.model_validate(later).resolved(ADDRESS, 2000).digest == first.digest
    digests = {first.digest}
    for other in ({"input": "ho"}, {"model": "m"}, {"template": "t"}, {"session_id": "t"}):
        digests.add(AgentRequest.model_validate({**asked, **other}).resolved(ADDRESS, 1000).digest)
    assert len(digests) == 5


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        any_event.validate_python({"type": "telegram", **OF_A_RUN})


def test_what_an_upstream_leaves_out_comes_from_the_records_address() -> None:
    request = AgentRequest(user_id="ada", input="hi").resolved(ADDRESS, at_ms=7)
    assert request.request_id == "m.requests-1-42"
    assert request.session_id == request.request_id
    assert (request.template, request.tenant, request.at_ms) == ("chat_agent", "default", 7)
    assert request.source == ADDRESS


def test_what_an_upstream_gives_is_kept() -> None:
    given = AgentRequest(user_id="ada", input="hi", request_id="r", session_id="s", model="local")
    request = given.resolved(ADDRESS, at_ms=7)
    assert (request.request_id, request.session_id, request.model) == ("r", "s", "local")


def test_reading_a_record_again_gives_the_same_request() -> None:
    given = AgentRequest(user_id="ada", input="hi")
    assert given.resolved(ADDRESS, at_ms=7) == given.resolved(ADDRESS, at_ms=7)


def test_an_event_made_again_has_the_same_id() -> None:
    token = {**OF_A_RUN, "attempt": 1, "seq": 2, "text": "x"}
    assert AgentToken(**token).event_id == AgentToken(**token, at_ms=9).event_id == "r:1:2"


def test_each_stages_decision_has_an_id_of_its_own() -> None:
    common = {**OF_A_RUN, "admitted": True, "generation": 1, "source": ADDRESS}
    whole = Decision(**common)
    part = Decision(**common, stage="executor")
    assert whole.event_id != part.event_id


def test_a_sessions_heads_are_compacted_by_user_and_session() -> None:
    head = SessionUpdated(
        **OF_A_RUN, checkpoint_id="c", checkpoint_offset_min=0, turn=1, created_at_ms=1
    )
    other = head.model_copy(update={"session_id": "t"})
    assert head.partition_key == other.partition_key
    assert head.record_key != other.record_key


@pytest.mark.parametrize("status", ["done", "", "COMPLETED"])
def test_a_result_ends_in_one_of_the_known_ways(status: str) -> None:
    with pytest.raises(ValidationError):
        AgentResult(**OF_A_RUN, status=status, source=ADDRESS, accepted_at_ms=1)


def test_metadata_is_bounded() -> None:
    AgentRequest(user_id="a", input="b", metadata={str(n): "x" for n in range(32)})
    with pytest.raises(ValidationError):
        AgentRequest(user_id="a", input="b", metadata={str(n): "x" for n in range(33)})
    with pytest.raises(ValidationError):
        AgentRequest(user_id="a", input="b", metadata={"k": "x" * 1025})


@pytest.mark.parametrize("event", EVENT_TYPES, ids=event_name)
def test_every_event_belongs_to_a_user(event: type[Event]) -> None:
    assert {"user_id", "tenant", "schema_version"} <= set(event.model_fields)
