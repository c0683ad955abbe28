"""Why a cluster refuses to make a topic, in a line that says which value, and what to do.

Managed clusters allow some values and no others, and tell of the first that they refuse: with a
policy of their own (`PolicyViolation`), or as `InvalidConfig`. So the topic is asked for again
without it, for validation only, until all are known.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidConfigurationError,
    InvalidReplicationFactorError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
)

from millstream.streams.broker.topics.values import REPLICATION, about, leaving

__all__ = ["Refusal", "all_refused", "told_of_refusal"]

_DENIED = (TopicAuthorizationFailedError.errno, ClusterAuthorizationFailedError.errno)
_OF_VALUES = (
    PolicyViolationError.errno,
    InvalidConfigurationError.errno,
    InvalidReplicationFactorError.errno,
)
_ASKED_MAX = 16


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a broker answered to the making of a topic: an error's number, and its words."""

    topic: str
    error: int
    reason: str

    @property
    def is_of_values(self) -> bool:
        """Whether it is about what the topic is to be, and not about whether or by whom."""
        return self.error in _OF_VALUES

    def key(self, configs: Mapping[str, str]) -> str | None:
        """Give the value that it is about, `None` where the words do not say."""
        if self.error == InvalidReplicationFactorError.errno:
            return REPLICATION
        named = [
            key
            for key in configs
            if re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", self.reason)
        ]
        if named:
            return max(named, key=len)
        # Of a policy, whose words are whatever its author wrote.
        words = re.sub(r"[\W_]+", ".", self.reason.lower())
        named = [key for key in configs if key in words]
        if named:
            return max(named, key=len)
        return REPLICATION if re.search(r"replica(s\b|tion)", self.reason, re.IGNORECASE) else None


Ask = Callable[[Mapping[str, str]], Awaitable[Refusal | None]]
"""Asks whether a topic could be made with a configuration."""


async def all_refused(first: Refusal, configs: Mapping[str, str], ask: Ask) -> dict[str, Refusal]:
    """Give each value that is refused, with what the broker says; none where none is found."""
    refused: dict[str, Refusal] = {}
    left, refusal = dict(configs), first
    for _ in range(_ASKED_MAX if first.is_of_values else 0):
        key = refusal.key(left) or await _unnamed(refusal, left, ask)
        if key is None:
            break
        refused[key] = refusal
        if left.pop(key, None) is None:
            break
        again = await ask(left)
        if again is None:
            break
        refusal = again
    return refused


async def _unnamed(refusal: Refusal, configs: Mapping[str, str], ask: Ask) -> str | None:
    """Find the value that a broker refuses without its name: without it, it says otherwise."""
    for key in configs:
        answer = await ask({other: value for other, value in configs.items() if other != key})
        if answer is None or answer.reason != refusal.reason:
            return key
    return None


def told_of_refusal(
    first: Refusal,
    refused: Mapping[str, Refusal],
    configs: Mapping[str, str],
    *,
    partitions: int,
    replication: int,
    others: int,
) -> str:
    """Say it in a line: which topic and values, what depends on them, what to do.

    `others` more topics were refused beside it.
    """
    more = f" and {others} more" if others else ""
    what = f"Kafka refuses topic {first.topic}{more}"
    if not refused:
        return (
            f"{what} ({partitions} partitions, replication {replication}): {first.reason}; "
            f"{_remedy(first)}"
        )
    told = []
    for key, refusal in refused.items():
        wanted = replication if key == REPLICATION else configs.get(key)
        told.append(f"{key} of {wanted} ({refusal.reason.rstrip('.')}): {about(key).depends}")
    left = [key for key in refused if about(key).instead is None]
    remedies = [words for key in refused if (words := about(key).instead) is not None]
    if left:
        remedies.insert(0, f"leave to the broker what it decides itself: {leaving(left)}")
    return f"{what}: {'; '.join(told)}. {'; '.join(remedies)}"


def _remedy(refusal: Refusal) -> str:
    if refusal.error in _DENIED:
        return "give this user the right `Create`: `millstream topics acls --optional` prints it"
    return (
        "mend MILLSTREAM_NAMESPACE, MILLSTREAM_PARTITIONS, MILLSTREAM_REPLICATION or "
        "MILLSTREAM_TOPICS, or make the topic yourself: `millstream topics --json` has what it is "
        "to be"
    )
