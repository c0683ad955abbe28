"""How a topic on the broker differs from what it is to be, in words with the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from millstream.schemas.topics import TopicSpec
from millstream.streams.broker.topics.values import REPLICATION, about, leaving
from millstream.streams.settings import Settings
from millstream.streams.topic_settings.retention import configs_of
from millstream.streams.topic_settings.values import values_of

__all__ = [
    "BATCH_BYTES",
    "LOOKED_AT",
    "Drift",
    "Found",
    "hidden",
    "missing",
    "told_of",
    "unknown_configs",
]

BATCH_BYTES = "max.message.bytes"
_IN_SYNC = "min.insync.replicas"
_BY_SIZE = "retention.bytes"
_CLOCK = "message.timestamp.type"
_UNLIMITED = "-1"
LOOKED_AT = (BATCH_BYTES, _IN_SYNC, _BY_SIZE, _CLOCK)
"""Values that are looked at whether or not they are set."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One way in which a topic differs from what it is to be.

    `fatal` says that workers must not run on it: users' records would stand at the wrong partition,
    or none could be written. `is_hidden` says that this user may not see how it is.
    """

    topic: str
    setting: str
    wanted: str
    found: str
    remedy: str
    fatal: bool = False
    is_hidden: bool = False

    def __str__(self) -> str:
        """Give it in words, with what to do."""
        return (
            f"{self.topic}: {self.setting} is {self.found}, the catalogue says {self.wanted}; "
            f"{self.remedy}"
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as the broker has it.

    `replicas` are those of the partition that has fewest. `read_only` are the values that this
    cluster lets nobody change.
    """

    name: str
    partitions: int
    replicas: int
    configs: Mapping[str, str]
    read_only: frozenset[str] = field(default_factory=frozenset)


def told_of(settings: Settings, spec: TopicSpec, found: Found) -> Iterator[Drift]:
    """Give each way in which a topic differs."""
    if found.partitions != settings.partitions:
        yield _repartitioned(settings, found)
    wanted = configs_of(settings.topics, spec.configs(), spec)
    values = values_of(settings.topics, spec)
    for key, value in wanted.items():
        if key not in {BATCH_BYTES, _IN_SYNC, _CLOCK} and _differs(found.configs.get(key), value):
            remedy = _altering(settings, spec, found, key, value)
            yield Drift(found.name, key, value, found.configs.get(key, "unknown"), remedy)
    yield from _clock(settings, spec, found, left_to_it=_CLOCK not in wanted)
    yield from _batch_bytes(settings, spec, found, wanted.get(BATCH_BYTES))
    yield from _in_sync(settings, spec, found, wanted.get(_IN_SYNC))
    yield from _replication(settings, found, values.get(REPLICATION) or settings.replication)
    if _BY_SIZE not in wanted and _BY_SIZE not in values and spec.retention_ms is not None:
        yield from _by_size(settings, spec, found)


def hidden(name: str) -> Drift:
    """Give that of a topic which this user may not see."""
    return Drift(
        name,
        "the topic",
        "that it exists",
        "hidden from this user",
        "give this user the right `Describe` on it; `millstream doctor` has the command",
        fatal=True,
        is_hidden=True,
    )


def unknown_configs(name: str) -> Drift:
    """Give that of a topic whose configuration this user may not see."""
    return Drift(
        name,
        "the configuration",
        "what `docs/reference` has",
        "hidden from this user",
        "give this user the right `DescribeConfigs` on it; `millstream doctor` has the command",
        is_hidden=True,
    )


def missing(name: str) -> Drift:
    """Give that of a topic that there is not."""
    return Drift(
        name,
        "the topic",
        "that it exists",
        "missing",
        "start a worker or run `millstream topics --create`, which create what is missing",
        fatal=True,
    )


def _repartitioned(settings: Settings, found: Found) -> Drift:
    return Drift(
        found.name,
        "the number of partitions",
        str(settings.partitions),
        str(found.partitions),
        f"set MILLSTREAM_PARTITIONS={found.partitions} if all topics of the namespace have "
        f"{found.partitions}; delete it if it is empty, as one that a client's first request made "
        "(auto.create.topics.enable); else move to a new MILLSTREAM_NAMESPACE: users' records "
        "would no longer meet at one partition",
        fatal=True,
    )


def _differs(found: str | None, wanted: str) -> bool:
    if found is None:
        return True
    # A broker may write a number otherwise than it was written to it.
    return found != wanted and not (_is_number(found, wanted) and float(found) == float(wanted))


def _is_number(*texts: str) -> bool:
    try:
        return all(float(text) is not None for text in texts)
    except ValueError:
        return False


def _clock(
    settings: Settings, spec: TopicSpec, found: Found, *, left_to_it: bool
) -> Iterator[Drift]:
    wanted = "LogAppendTime"
    if found.configs.get(_CLOCK) == wanted:
        return
    remedy = _altering(settings, spec, found, _CLOCK, wanted)
    if left_to_it:
        remedy = f"it is left to the broker, which has it otherwise: {about(_CLOCK).instead}"
    told = f"{about(_CLOCK).depends}: {remedy}"
    yield Drift(found.name, _CLOCK, wanted, found.configs.get(_CLOCK, "unknown"), told)


def _batch_bytes(
    settings: Settings, spec: TopicSpec, found: Found, wanted: str | None
) -> Iterator[Drift]:
    # A topic without a limit of its own has the broker's, which may be lower. A higher one is none
    # of ours: what is too large for lanes is buried.
    limit, least = found.configs.get(BATCH_BYTES), max(spec.batch_bytes_min, int(wanted or 0))
    if limit is None or not limit.isdecimal() or int(limit) < least:
        remedy = _altering(settings, spec, found, BATCH_BYTES, str(least), may_be_left=False)
        told = f"{about(BATCH_BYTES).depends}: {remedy}"
        yield Drift(found.name, BATCH_BYTES, f"{least} at least", limit or "unknown", told)


def _in_sync(
    settings: Settings, spec: TopicSpec, found: Found, wanted: str | None
) -> Iterator[Drift]:
    here = found.configs.get(_IN_SYNC)
    if here is None or not here.isdecimal():
        return
    if int(here) > found.replicas:
        remedy = (
            "nothing can be written to it (NOT_ENOUGH_REPLICAS): "
            f"{_altering(settings, spec, found, _IN_SYNC, str(max(1, found.replicas - 1)))}"
        )
        yield Drift(found.name, _IN_SYNC, f"{found.replicas} at most", here, remedy, fatal=True)
    elif wanted is not None and here != wanted:
        remedy = _altering(settings, spec, found, _IN_SYNC, wanted)
        yield Drift(found.name, _IN_SYNC, wanted, here, remedy)


def _replication(settings: Settings, found: Found, wanted: object) -> Iterator[Drift]:
    if wanted is None or found.replicas == int(str(wanted)):
        return
    yield Drift(
        found.name,
        REPLICATION,
        str(wanted),
        str(found.replicas),
        "partitions are given other replicas by kafka-reassign-partitions.sh "
        f"--bootstrap-server {settings.kafka}, and by no configuration",
    )


def _by_size(settings: Settings, spec: TopicSpec, found: Found) -> Iterator[Drift]:
    here = found.configs.get(_BY_SIZE, _UNLIMITED)
    if here == _UNLIMITED:
        return
    remedy = _altering(settings, spec, found, _BY_SIZE, _UNLIMITED)
    told = f"{about(_BY_SIZE).depends}: {remedy}"
    yield Drift(found.name, _BY_SIZE, _UNLIMITED, here, told)


def _altering(
    settings: Settings,
    spec: TopicSpec,
    found: Found,
    key: str,
    wanted: str,
    *,
    may_be_left: bool = True,
) -> str:
    may_be_left = may_be_left and about(key).instead is None
    left = f"leave it to the broker: {leaving([key], spec.name)}"
    if key in found.read_only:
        words = left if may_be_left else str(about(key).instead)
        return f"this cluster lets nobody change it; {words}"
    command = (
        f"kafka-configs.sh --bootstrap-server {settings.kafka} --alter --entity-type topics "
        f"--entity-name {found.name} --add-config '{key}={_bracketed(wanted)}'"
    )
    return f"to follow the catalogue: {command}" + (f"; or {left}" if may_be_left else "")


def _bracketed(value: str) -> str:
    """Put brackets around a list: without them the tool ends the value at its first comma."""
    return f"[{value}]" if "," in value else value
