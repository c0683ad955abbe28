"""What depends on each value of a topic, and what becomes of it where a broker has another."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["REPLICATION", "TopicValue", "about", "leaving"]

REPLICATION = "replication.factor"


@dataclass(frozen=True, slots=True)
class TopicValue:
    """What is known of one value.

    `depends` says what depends on it. `instead`, what to do where a broker refuses it and it cannot
    be left to the broker; `None` where it can be, by `null` in `MILLSTREAM_TOPICS`.
    """

    depends: str
    instead: str | None = None


_AT_START = "only how much a lane reads as it starts, and how soon what was deleted is gone"

_VALUES = {
    "cleanup.policy": TopicValue(
        "what waits, who owns a partition and where sessions stand are the newest records of keys",
        "Millstream needs a cluster that compacts topics",
    ),
    "message.timestamp.type": TopicValue(
        "limits, caps, windows of ids and times to live go by the brokers' clock, and would go by "
        "whatever a client writes",
        "have brokers stamp records, by log.message.timestamp.type=LogAppendTime, and leave it to "
        "them",
    ),
    "retention.ms": TopicValue(
        "how long what was said can be read, and how late a request may be read again",
        "set one that the broker takes, topic by topic; docs/how-to/topics.md has what must be "
        "kept as long as what",
    ),
    "max.message.bytes": TopicValue(
        "records that are larger are refused: their runs fail or end as dead letters",
        "raise what the brokers take (message.max.bytes), or what they let a topic have",
    ),
    "min.insync.replicas": TopicValue(
        "with fewer than two replicas that have a record, one broker that is lost takes it along"
    ),
    "retention.bytes": TopicValue(
        "records that lanes count on would go by size, whatever their age",
        "raise it to -1, or far above what the topic holds",
    ),
    "segment.ms": TopicValue(_AT_START),
    "segment.bytes": TopicValue(_AT_START),
    "min.cleanable.dirty.ratio": TopicValue(_AT_START),
    "max.compaction.lag.ms": TopicValue(_AT_START),
    "delete.retention.ms": TopicValue(_AT_START),
    "compression.type": TopicValue("only how much room the topic takes"),
    REPLICATION: TopicValue(
        "with one replica, a broker that is lost takes the partition along",
        "set MILLSTREAM_REPLICATION to what the cluster takes",
    ),
}


def about(key: str) -> TopicValue:
    """Give what is known of a value."""
    return _VALUES.get(key, TopicValue("nothing of Millstream's"))


def leaving(keys: Collection[str], topic: str = "*") -> str:
    """Give the setting that leaves values of a topic, or of all, to the broker."""
    return f"MILLSTREAM_TOPICS='{json.dumps({topic: dict.fromkeys(keys)})}'"
