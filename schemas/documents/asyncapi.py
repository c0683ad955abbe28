"""The topics as an AsyncAPI 3.0 document, as an application sees them that uses Millstream.

Such an application sends requests and receives everything else. Sources: the AsyncAPI
specification 3.0.0, its Kafka bindings 0.5.0, and the CloudEvents 1.0 Kafka protocol binding.
"""

from __future__ import annotations

from pydantic.json_schema import models_json_schema

from millstream.schemas.base import Event
from millstream.schemas.documents.contract import Json, event_name
from millstream.schemas.topics import BASE_TOPICS, REQUESTS, TopicSpec

ASYNCAPI_VERSION = "3.0.0"
CE_TYPE_PREFIX = "io.millstream."
DEFAULT_NAMESPACE = "millstream"
DEFAULT_PARTITIONS = 4

_BINDING_VERSION = "0.5.0"
_SCHEMA_FORMAT = "application/schema+json;version=draft-2020-12"
_SCHEMAS = "#/components/schemas/{model}"


def asyncapi_document(version: str, topics: tuple[TopicSpec, ...] = BASE_TOPICS) -> Json:
    """Give the document of release `version` for `topics`."""
    public = tuple(topic for topic in topics if topic.public)
    _, definitions = models_json_schema(
        [(topic.event, "validation") for topic in public], ref_template=_SCHEMAS
    )
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "Millstream",
            "version": version,
            "description": (
                "An event-driven runtime for LLM agents on Apache Kafka. Publish requests; read "
                "tokens, results and all that was decided, with isolation level read_committed."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in public},
        "operations": {_operation_name(topic): _operation(topic) for topic in public},
        "components": {
            "messages": {event_name(topic.event): _message(topic) for topic in public},
            "schemas": definitions["$defs"],
        },
    }


def headers_schema(event: type[Event]) -> Json:
    """Give the schema of the record headers that Millstream writes; no reader may insist on them.

    A request that comes without them is accepted and given them.
    """
    text: Json = {"type": "string"}
    return {
        "type": "object",
        "description": (
            "CloudEvents 1.0 in binary mode, and W3C trace context. Headers are UTF-8. "
            "A request needs none of them."
        ),
        "properties": {
            "content-type": {"const": "application/json"},
            "ce_specversion": {"const": "1.0"},
            "ce_id": text
            | {
                "minLength": 1,
                "description": (
                    "`tenant/user/type/…`, unique in its source; the same whenever the event is "
                    "made again."
                ),
            },
            "ce_source": text | {"format": "uri-reference", "minLength": 1},
            "ce_type": {"const": CE_TYPE_PREFIX + event_name(event)},
            "ce_subject": text | {"description": "The user."},
            "ce_time": text | {"format": "date-time"},
            "traceparent": text | {"pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
            "tracestate": text | {"description": "That of the request, if it had one."},
        },
    }


def _channel(topic: TopicSpec) -> Json:
    name = event_name(topic.event)
    return {
        "address": f"{{namespace}}.{topic.name}",
        "title": topic.name,
        "description": topic.about + ".",
        "parameters": {
            "namespace": {
                "description": "Prefix of a deployment's topics.",
                "default": DEFAULT_NAMESPACE,
            }
        },
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "kafka": {
                "partitions": DEFAULT_PARTITIONS,
                "topicConfiguration": _topic_configuration(topic),
                "bindingVersion": _BINDING_VERSION,
            }
        },
    }


def _topic_configuration(topic: TopicSpec) -> Json:
    configuration: Json = {"cleanup.policy": list(topic.cleanup_policies)}
    if topic.retention_ms is not None:
        configuration["retention.ms"] = topic.retention_ms
    return configuration


def _operation_name(topic: TopicSpec) -> str:
    verb = "send" if topic is REQUESTS else "receive"
    return verb + "".join(word.capitalize() for word in topic.name.split("-"))


def _operation(topic: TopicSpec) -> Json:
    name = event_name(topic.event)
    return {
        "action": "send" if topic is REQUESTS else "receive",
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "summary": topic.about + ".",
        "messages": [{"$ref": f"#/channels/{topic.name}/messages/{name}"}],
    }


def _message(topic: TopicSpec) -> Json:
    event = topic.event
    return {
        "name": event_name(event),
        "title": event.title,
        "contentType": "application/json",
        "headers": {"schemaFormat": _SCHEMA_FORMAT, "schema": headers_schema(event)},
        "payload": {
            "schemaFormat": _SCHEMA_FORMAT,
            "schema": {"$ref": _SCHEMAS.format(model=event.__name__)},
        },
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": topic.key},
                "bindingVersion": _BINDING_VERSION,
            }
        },
    }
