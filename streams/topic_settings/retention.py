"""How long topics keep their records, and which must keep them as long as what.

What a topic follows another in, it follows also where that one is set (`_FOLLOWS`). What must be
kept as long as something else is kept so unless it is set itself (`AS_LONG_AS`, each with why):
then it is refused where it would be shorter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from millstream.schemas.topics import (
    ATTEMPTS,
    CHECKPOINTS,
    CONTROL,
    DAY_MS,
    DEAD_LETTERS,
    DECISIONS,
    HOUR_MS,
    JOURNAL,
    OBEYED,
    REDRIVES,
    REQUESTS,
    RESERVATIONS,
    RESULTS,
    RUN_MIGRATION_ANSWERS,
    RUN_MIGRATIONS,
    SESSION_ANSWERS,
    SESSION_COMMANDS,
    SESSION_STATES,
    SESSIONS,
    STEPS,
    TOKENS,
    TopicSpec,
)
from millstream.streams.topic_settings.values import (
    RETENTION,
    TopicValues,
    values_of,
    whole_number,
    with_values,
)

__all__ = ["AS_LONG_AS", "AsLongAs", "Retention", "configs_of", "told_ms"]

_BROKERS_SEGMENT_MS = 7 * DAY_MS

_FOLLOWS: Mapping[str, TopicSpec] = {
    STEPS.name: TOKENS,
    RESERVATIONS.name: ATTEMPTS,
    JOURNAL.name: CHECKPOINTS,
    SESSIONS.name: CHECKPOINTS,
    SESSION_STATES.name: CHECKPOINTS,
    SESSION_ANSWERS.name: SESSION_COMMANDS,
    OBEYED.name: CONTROL,
    RUN_MIGRATIONS.name: CONTROL,
    RUN_MIGRATION_ANSWERS.name: RUN_MIGRATIONS,
}
"""Whose retention a topic has, unless it is set itself."""


@dataclass(frozen=True, slots=True)
class AsLongAs:
    """That a topic must keep its records as long as another, and why."""

    topic: TopicSpec
    other: TopicSpec
    why: str


AS_LONG_AS: tuple[AsLongAs, ...] = (
    AsLongAs(RESULTS, REQUESTS, "a request that is read again must find its result"),
    AsLongAs(DECISIONS, REQUESTS, "a request that is read again must find its decision"),
    AsLongAs(OBEYED, REQUESTS, "a request that is read late must find that it was cancelled"),
    AsLongAs(OBEYED, CONTROL, "a command that is read again must find that it was carried out"),
    AsLongAs(RESERVATIONS, ATTEMPTS, "a lost attempt is settled at what it reserved"),
    AsLongAs(JOURNAL, CHECKPOINTS, "a run may wait for as long as its checkpoint stands"),
    AsLongAs(SESSIONS, CHECKPOINTS, "a conversation without its head is begun anew"),
    AsLongAs(SESSION_STATES, CHECKPOINTS, "a session that was closed would be open again"),
    AsLongAs(
        SESSION_ANSWERS, SESSION_COMMANDS, "a command that is read again must find its answer"
    ),
    AsLongAs(
        RUN_MIGRATION_ANSWERS, RUN_MIGRATIONS, "a command that is read again must find its answer"
    ),
    AsLongAs(REDRIVES, DEAD_LETTERS, "a letter that is still there must find that it was put back"),
)


class Retention:
    """How long topics keep their records, as the settings say."""

    __slots__ = ("_topics",)

    def __init__(self, topics: TopicValues | None = None) -> None:
        self._topics = topics or {}

    def ms(self, spec: TopicSpec) -> int | None:
        """Give it in milliseconds; `None` for a topic that keeps the newest record of each key."""
        if spec.retention_ms is None:
            return None
        own = self._topics.get(spec.name, {}).get(RETENTION)
        if own is not None:
            return whole_number(own)
        if not self._topics:
            return spec.retention_ms
        followed = _FOLLOWS.get(spec.name)
        found = spec.retention_ms if followed is None else self._kept(followed)
        return max([found, *(self.least_ms(one) for one in AS_LONG_AS if one.topic is spec)])

    def set_by(self, spec: TopicSpec) -> str:
        """Give the name of the topic by which it is set: its own, or of the one that it follows."""
        followed = _FOLLOWS.get(spec.name)
        is_own = followed is None or RETENTION in self._topics.get(spec.name, {})
        return spec.name if is_own or followed is None else self.set_by(followed)

    def least_ms(self, one: AsLongAs) -> int:
        """Give how long a topic must keep its records at the least, for the sake of another."""
        kept_ms = self._kept(one.other)
        if one.topic is not REDRIVES:
            return kept_ms
        # A segment goes as a whole, with its newest record.
        segment_ms = values_of(self._topics, DEAD_LETTERS).get("segment.ms")
        return kept_ms + (whole_number(segment_ms) or _BROKERS_SEGMENT_MS) + DAY_MS

    def _kept(self, spec: TopicSpec) -> int:
        kept_ms = self.ms(spec)
        assert kept_ms is not None, spec.name  # noqa: S101  no topic follows one that keeps all
        return kept_ms


def configs_of(
    topics: TopicValues, given: Mapping[str, str], spec: TopicSpec | None
) -> dict[str, str]:
    """Give a topic's configuration, `given`, with what is set for it and how long it is kept.

    `spec` is `None` for a changelog of a view.
    """
    configs = with_values(topics, given, spec)
    if spec is not None and (kept_ms := Retention(topics).ms(spec)) is not None:
        configs[RETENTION] = str(kept_ms)
    return configs


def told_ms(span_ms: int) -> str:
    """Give a span of time for people."""
    if span_ms % DAY_MS == 0:
        return f"{span_ms // DAY_MS} d"
    return f"{span_ms / HOUR_MS:g} h"
