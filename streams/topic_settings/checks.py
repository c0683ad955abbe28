"""What is set for topics and cannot be, in a line each: before anything is asked of a broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches

from millstream.schemas.errors import Misconfigured
from millstream.schemas.topics import (
    ATTEMPTS,
    CHECKPOINTS,
    COSTS,
    DAY_MS,
    DEAD_LETTERS,
    DECISIONS,
    HOUR_MS,
    JOURNAL,
    OBEYED,
    RESERVATIONS,
    RESULTS,
    SESSION_ANSWERS,
    SESSION_STATES,
    SESSIONS,
    STEPS,
    TOKENS,
    TopicSpec,
    catalogue,
)
from millstream.streams.topic_settings.retention import AS_LONG_AS, Retention, told_ms
from millstream.streams.topic_settings.values import (
    BATCH_BYTES,
    COMPACTING,
    EVERY,
    IN_SYNC,
    REPLICATION,
    RETENTION,
    TopicValues,
    Value,
    values_of,
    whole_number,
)

__all__ = ["VALUES", "require_sound"]

_LONG_MAX = 2**63 - 1
_INT_MAX = 2**31 - 1
_RETENTION_MAX_MS = 3650 * DAY_MS
_SPENT_MS = 2 * DAY_MS

_OF_IDS = (RESULTS, DECISIONS, OBEYED, DEAD_LETTERS, SESSION_ANSWERS)
_OF_SPEND = (DECISIONS, ATTEMPTS, RESERVATIONS, COSTS)
_OF_SESSIONS = (CHECKPOINTS, SESSIONS, SESSION_STATES, JOURNAL)
_BY_SIZE = (TOKENS, STEPS)
"""Of these alone nothing depends on when their records go."""

_Check = Callable[[Value], str | None]
"""Says what a value must be, `None` for one that is right."""


def _whole(least: int, most: int) -> _Check:
    def check(value: Value) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return None
        return f"a whole number from {least} to {most}"

    return check


def _ratio(value: Value) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number and 0 <= float(str(value)) <= 1 else "a number from 0 to 1"


def _one_of(*words: str) -> _Check:
    return lambda value: None if value in words else f"one of {', '.join(words)}"


def _truth(value: Value) -> str | None:
    return None if isinstance(value, bool) else "true or false"


VALUES: Mapping[str, _Check] = {
    RETENTION: _whole(HOUR_MS, _RETENTION_MAX_MS),
    "retention.bytes": _whole(-1, _LONG_MAX),
    BATCH_BYTES: _whole(1, _INT_MAX),
    "segment.ms": _whole(1, _LONG_MAX),
    "segment.bytes": _whole(1024 * 1024, _INT_MAX),
    "delete.retention.ms": _whole(60_000, _LONG_MAX),
    "min.cleanable.dirty.ratio": _ratio,
    "max.compaction.lag.ms": _whole(1, _LONG_MAX),
    "compression.type": _one_of("producer", "gzip", "lz4", "snappy", "zstd", "uncompressed"),
    "remote.storage.enable": _truth,
    "local.retention.ms": _whole(-2, _LONG_MAX),
    "local.retention.bytes": _whole(-2, _LONG_MAX),
    "message.timestamp.type": _one_of("LogAppendTime"),
    IN_SYNC: _whole(1, 9),
    REPLICATION: _whole(1, 9),
}

_REFUSED: Mapping[str, str] = {
    "partitions": "all topics have one number of partitions: set MILLSTREAM_PARTITIONS",
    "num.partitions": "all topics have one number of partitions: set MILLSTREAM_PARTITIONS",
    "cleanup.policy": "what is compacted and what is not is no matter of choice: leave it out",
    "replication": f"Kafka's name of it is {REPLICATION}",
    "default.replication.factor": f"of a topic it is {REPLICATION}",
    "retention.hours": f"of a topic it is {RETENTION}, in milliseconds",
}

_NEVER_LEFT = (RETENTION,)
"""A lane counts by it, whatever a broker would make of it."""


def require_sound(
    topics: TopicValues,
    *,
    chain_cuts: tuple[str, ...],
    dedup_window_s: int,
    replication: int | None,
) -> None:
    """Raise `Misconfigured` with a line for each thing that is set and cannot be."""
    if not topics:
        return
    specs = {spec.name: spec for spec in catalogue(chain_cuts)}
    faults = list(_alone(topics, specs))
    # What is wrong in itself would be told twice, and otherwise.
    faults = faults or list(_between(topics, specs, dedup_window_s, replication))
    if faults:
        raise Misconfigured(
            "; ".join(f"MILLSTREAM_TOPICS: {topic}: {words}" for topic, words in faults)
        )


def _alone(topics: TopicValues, specs: Mapping[str, TopicSpec]) -> Iterator[tuple[str, str]]:
    """Give what is wrong in itself, by topic."""
    for name, values in topics.items():
        if name != EVERY and name not in specs:
            plain = name.rpartition(".")[2]
            nearest = get_close_matches(plain, specs, n=1)
            advice = f"did you mean {nearest[0]}?" if nearest else "`millstream topics` lists them."
            yield name, f"there is no such topic; {advice} Names are without the namespace"
            continue
        for key, value in values.items():
            words = _fault(specs.get(name), key, value)
            if words is not None:
                yield name, words


def _fault(spec: TopicSpec | None, key: str, value: Value) -> str | None:
    """Say what is wrong with one value of a topic; `spec` is `None` for all topics."""
    if key in _REFUSED:
        return f"{key}: {_REFUSED[key]}"
    check = VALUES.get(key)
    if check is None:
        nearest = get_close_matches(key, VALUES, n=1)
        advice = f"did you mean {nearest[0]}?" if nearest else f"it may be {', '.join(VALUES)}"
        return f"{key} is nothing that can be set here; {advice}"
    if value is None:
        return f"{key} must be a number: lanes count by it" if key in _NEVER_LEFT else None
    if (must_be := check(value)) is not None:
        return f"{key} is {value!r}, and must be {must_be}"
    return _unfit(spec, key, value)


def _unfit(spec: TopicSpec | None, key: str, value: Value) -> str | None:
    """Say why a value that is right in itself is none for this topic."""
    if spec is None:
        if key not in {RETENTION, "retention.bytes", "remote.storage.enable"}:
            return None
        return f"{key} is set topic by topic: records of each are kept for another reason"
    sizes = " and ".join(one.name for one in _BY_SIZE)
    least = spec.batch_bytes_min
    unfit: Mapping[str, tuple[bool, str]] = {
        RETENTION: (
            spec.retention_ms is None,
            (
                f"{key}: it keeps the newest record of each key for ever, and what waits there "
                "would be lost: leave it out"
            ),
        ),
        "retention.bytes": (
            value != -1 and spec not in _BY_SIZE,
            (
                f"{key} deletes records that lanes count on, whatever their age: it may be set of "
                f"{sizes}; shorten {RETENTION} instead"
            ),
        ),
        "remote.storage.enable": (
            bool(value) and spec.compacted,
            f"{key}: brokers keep no compacted topic remotely: leave it out",
        ),
        BATCH_BYTES: (
            key == BATCH_BYTES and whole_number(value) < least,
            (
                f"{key} is {value}, and must be {least} at least: larger records are refused, "
                "and their runs fail"
            ),
        ),
        **dict.fromkeys(
            COMPACTING, (not spec.compacted, f"{key}: it is not compacted: leave it out")
        ),
    }
    is_unfit, words = unfit.get(key, (False, ""))
    return words if is_unfit else None


def _between(
    topics: TopicValues,
    specs: Mapping[str, TopicSpec],
    dedup_window_s: int,
    replication: int | None,
) -> Iterator[tuple[str, str]]:
    """Give what fits each by itself, and does not fit together."""
    retention = Retention(topics)
    set_ms = {name: retention.ms(specs[name]) or 0 for name in topics if name != EVERY}
    set_ms = {name: ms for name, ms in set_ms.items() if RETENTION in topics[name]}
    for one in AS_LONG_AS:
        name, least_ms = one.topic.name, retention.least_ms(one)
        if set_ms.get(name, least_ms) < least_ms:
            yield name, _too_short(set_ms[name], least_ms, f"as {one.other.name} are", one.why)
    dedup_ms = dedup_window_s * 1000
    for specs_of, least_ms, what, why in (
        (_OF_IDS, dedup_ms, "MILLSTREAM_DEDUP_WINDOW_S", "within it an id gives its one result"),
        (_OF_SPEND, _SPENT_MS, "two days", "caps count what was spent today and yesterday"),
        (_OF_SESSIONS, DAY_MS, "a day", "what is in use is written anew some hours apart"),
    ):
        for spec in specs_of:
            kept_ms = retention.ms(spec) or 0
            if kept_ms < least_ms:
                yield retention.set_by(spec), _too_short(kept_ms, least_ms, what, why)
    yield from _replicas(topics, specs, replication)


def _replicas(
    topics: TopicValues, specs: Mapping[str, TopicSpec], replication: int | None
) -> Iterator[tuple[str, str]]:
    for name in topics:
        values = values_of(topics, specs.get(name))
        in_sync, replicas = values.get(IN_SYNC), values.get(REPLICATION) or replication
        if in_sync is None or replicas is None or whole_number(in_sync) <= whole_number(replicas):
            continue
        yield (
            name,
            (
                f"{IN_SYNC} is {in_sync}, of {replicas} replicas: nothing could be written; "
                f"lower it, or raise {REPLICATION} or MILLSTREAM_REPLICATION"
            ),
        )


def _too_short(found_ms: int, least_ms: int, as_long_as: str, why: str) -> str:
    return (
        f"{RETENTION} is {found_ms} ({told_ms(found_ms)}), and must be {least_ms} "
        f"({told_ms(least_ms)}) at least, {as_long_as}: {why}"
    )
