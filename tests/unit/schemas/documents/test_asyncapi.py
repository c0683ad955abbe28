from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from millstream.schemas.base import Event
from millstream.schemas.documents.asyncapi import (
    DEFAULT_PARTITIONS,
    asyncapi_document,
    headers_schema,
)
from millstream.schemas.documents.contract import event_name
from millstream.schemas.events import AgentRequest, AgentToken
from millstream.schemas.topics import BASE_TOPICS, SNAPSHOTS, TopicSpec, stage_topic
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import encode
from millstream.streams.wire.trace import Trace, new_trace

OFFICIAL = Path(__file__).parents[3] / "data" / "asyncapi" / "3.0.0.json"
"""AsyncAPI's own JSON Schema of version 3.0.0, as its npm package `@asyncapi/specs` ships it."""


@pytest.fixture(scope="module")
def official() -> Draft7Validator:
    return Draft7Validator(json.loads(OFFICIAL.read_text(encoding="utf-8")))


def test_the_document_is_valid_asyncapi_3(official: Draft7Validator) -> None:
    assert [error.message for error in official.iter_errors(asyncapi_document("0.1.0"))] == []


def test_the_official_schema_would_have_found_a_mistake(official: Draft7Validator) -> None:
    document = asyncapi_document("0.1.0")
    document["operations"]["sendRequests"]["action"] = "publish"
    assert not official.is_valid(document)


PUBLIC_TOPICS = [topic for topic in BASE_TOPICS if topic.public]


@pytest.mark.parametrize("topic", PUBLIC_TOPICS, ids=lambda topic: topic.name)
def test_every_topic_is_a_channel_with_its_event_key_and_retention(topic: TopicSpec) -> None:
    document = asyncapi_document("0.1.0")
    channel = document["channels"][topic.name]
    assert channel["address"] == f"{{namespace}}.{topic.name}"
    [name] = channel["messages"]
    message = document["components"]["messages"][name]
    assert name == event_name(topic.event)
    assert message["bindings"]["kafka"]["key"]["description"] == topic.key
    configuration = channel["bindings"]["kafka"]["topicConfiguration"]
    assert configuration.get("retention.ms") == topic.retention_ms
    assert configuration["cleanup.policy"] == topic.configs()["cleanup.policy"].split(",")


def test_an_application_sends_requests_and_receives_the_rest() -> None:
    operations = asyncapi_document("0.1.0")["operations"]
    sent = [name for name, operation in operations.items() if operation["action"] == "send"]
    assert sent == ["sendRequests"]
    assert len(operations) == len(PUBLIC_TOPICS)


def test_topics_between_lanes_are_nobody_elses_business() -> None:
    stage = stage_topic("executor")
    channels = asyncapi_document("0.1.0", (*BASE_TOPICS, stage))["channels"]
    assert {stage.name, SNAPSHOTS.name}.isdisjoint(channels)


def test_every_reference_in_the_document_leads_somewhere() -> None:
    document = asyncapi_document("0.1.0")
    for reference in references(document):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_the_document_tells_the_default_number_of_partitions() -> None:
    assert Settings.model_fields["partitions"].default == DEFAULT_PARTITIONS


TRACE = Trace(new_trace().parent, b"vendor=1")


@pytest.mark.parametrize(
    "event",
    [
        AgentRequest(user_id="ada", input="hi", request_id="r1"),
        AgentToken(user_id="ada", request_id="r1", session_id="s", attempt=0, seq=0, text="Hi"),
    ],
)
def test_the_headers_that_are_written_are_those_that_are_described(event: Event) -> None:
    headers = {
        name: value.decode()
        for name, value in encode(event, source="/test", traceparent=TRACE).headers
    }
    schema = headers_schema(type(event))
    Draft202012Validator(schema).validate(headers)
    assert set(headers) == set(schema["properties"])


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [found for item in node for found in references(item)]
    if isinstance(node, dict):
        found = [ref for value in node.values() for ref in references(value)]
        return [*found, node["$ref"]] if isinstance(node.get("$ref"), str) else found
    return []
