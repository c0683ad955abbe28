"""What is set for single topics, by Kafka's own names.

`MILLSTREAM_TOPICS` is `{"tokens": {"retention.ms": 3600000}, "*": {"segment.bytes": null}}`: `*`
stands for all topics, changelogs of views included, and `null` leaves a value to the broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from millstream.middleware.yaml_tree import read_yaml
from millstream.schemas.errors import Misconfigured
from millstream.schemas.topics import TopicSpec

__all__ = [
    "BATCH_BYTES",
    "COMPACTING",
    "EVERY",
    "IN_SYNC",
    "REPLICATION",
    "RETENTION",
    "TopicValues",
    "Value",
    "read_topics_file",
    "replication_of",
    "values_of",
    "whole_number",
    "with_values",
]

EVERY = "*"
"""Stands for every topic, where something is set for all."""

Value = bool | int | float | str | None
TopicValues = Mapping[str, Mapping[str, Value]]
"""What is set, by topic without the namespace and by Kafka's name of the value."""

REPLICATION = "replication.factor"
RETENTION = "retention.ms"
IN_SYNC = "min.insync.replicas"
BATCH_BYTES = "max.message.bytes"
COMPACTING = ("delete.retention.ms", "min.cleanable.dirty.ratio", "max.compaction.lag.ms")
"""Values that concern compacted topics alone."""


def read_topics_file(path: Path) -> dict[str, dict[str, Value]]:
    """Read what is set for topics from a file of YAML. Raises `Misconfigured` that names it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"MILLSTREAM_TOPICS_FILE: {path} cannot be read: {error}"
        raise Misconfigured(message) from error
    found = read_yaml(text, str(path)).value
    if isinstance(found, Mapping) and all(isinstance(one, Mapping) for one in found.values()):
        return {str(topic): dict(values) for topic, values in found.items()}
    message = (
        f"MILLSTREAM_TOPICS_FILE: {path} must have topics, and below each what is set, as "
        "`tokens: {retention.ms: 3600000}`"
    )
    raise Misconfigured(message)


def values_of(topics: TopicValues, spec: TopicSpec | None) -> dict[str, Value]:
    """Give what is set for a topic, by itself or for all; `None`: for a changelog of a view."""
    own = {} if spec is None else topics.get(spec.name, {})
    return {**topics.get(EVERY, {}), **own}


def with_values(
    topics: TopicValues, given: Mapping[str, str], spec: TopicSpec | None
) -> dict[str, str]:
    """Give a topic's configuration, `given`, with what is set for it.

    What only some topics have, as a value of compaction, is no matter of the others where it is set
    for all. `spec` is `None` for a changelog of a view.
    """
    configs = dict(given)
    own = {} if spec is None else topics.get(spec.name, {})
    is_compacted = "compact" in given.get("cleanup.policy", "")
    for key, value in values_of(topics, spec).items():
        is_of_compaction = key in COMPACTING
        if key == REPLICATION or (key not in own and is_of_compaction and not is_compacted):
            continue
        if value is None:
            configs.pop(key, None)
        elif key == BATCH_BYTES and key not in own and spec is not None:
            # What is set for all topics makes none too small for its records.
            configs[key] = str(max(whole_number(value), spec.batch_bytes_min))
        else:
            configs[key] = str(value).lower() if isinstance(value, bool) else str(value)
    return configs


def replication_of(topics: TopicValues, spec: TopicSpec | None, all_topics: int) -> int:
    """Give the replicas of a topic: as set for it, else as all have."""
    found = values_of(topics, spec).get(REPLICATION)
    return all_topics if found is None else int(found)


def whole_number(value: Value) -> int:
    """Give a value that was found to be a whole number."""
    return int(value or 0)
