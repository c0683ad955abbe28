"""The rights on Kafka that each role needs: one table.

`doctor`, `topics acls`, workers and the page docs/how-to/rights.md go by it. Named as Kafka names
them. `Read` and `Write` bring `Describe` with them. `IdempotentWrite` is not among them: since
Kafka 2.8, whoever may write to some topic may do so idempotently (KIP-679).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from millstream.schemas.topics import (
    ATTEMPTS,
    BASE_TOPICS,
    CHECKPOINTS,
    CONTROL,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    HOLDS,
    JOURNAL,
    LANES,
    OBEYED,
    PARKED,
    REDRIVES,
    REQUESTS,
    RESULTS,
    RUN_MIGRATION_ANSWERS,
    RUN_MIGRATIONS,
    SESSION_ANSWERS,
    SESSION_COMMANDS,
    SESSION_EVENTS,
    SESSION_STATES,
    SESSIONS,
    STEPS,
    TEMPLATES,
    TOKENS,
    TopicSpec,
    catalogue,
)
from millstream.streams.settings import Settings

__all__ = [
    "COUNTED",
    "ROLES",
    "TABLE",
    "WHO",
    "Kind",
    "Need",
    "Resource",
    "Role",
    "needs_of",
    "resources_of",
]

Role = Literal["upstream", "product", "lanes", "views", "auditor", "operator"]
Kind = Literal["topic", "group", "transactional-id"]

ROLES: tuple[Role, ...] = ("upstream", "product", "lanes", "views", "auditor", "operator")

WHO: Mapping[Role, str] = MappingProxyType(
    {
        "upstream": "an upstream",
        "product": "a product",
        "lanes": "a worker with lanes",
        "views": "a worker with views",
        "auditor": "an auditor",
        "operator": "an operator",
    }
)
"""How a sentence names each role."""

_INPUT = (REQUESTS, CONTROL, SESSION_COMMANDS, RUN_MIGRATIONS)
_ANSWERED = (OBEYED, SESSION_ANSWERS, RUN_MIGRATION_ANSWERS)
_WATCHED = (TOKENS, STEPS)
COUNTED = (
    *(TOKENS, COSTS, CHECKPOINTS, RESULTS, SESSIONS, SESSION_STATES, SESSION_EVENTS, DECISIONS),
    DEAD_LETTERS,
)
"""The topics that have a view each."""

_STATE = tuple(one for one in BASE_TOPICS if one not in {*_INPUT, *_WATCHED, REDRIVES, TEMPLATES})
_PUBLIC = tuple(one for one in BASE_TOPICS if one.public)
_LOOKED_AT = (
    *(REQUESTS, DECISIONS, ATTEMPTS, JOURNAL, COSTS, RESULTS, PARKED, HOLDS, CHECKPOINTS),
    *(SESSIONS, SESSION_STATES, SESSION_EVENTS, LANES, DEAD_LETTERS),
)

_CHANGELOGS = tuple(f"views-{one.name.replace('-', '_')}-changelog" for one in COUNTED)


@dataclass(frozen=True, slots=True)
class Resource:
    """What rights are given on; of one that `is_prefix`, `name` is what all names begin with."""

    kind: Kind
    name: str
    is_prefix: bool = False

    def __str__(self) -> str:
        """Tell the name, as a pattern."""
        return f"{self.name}*" if self.is_prefix else self.name


@dataclass(frozen=True, slots=True)
class Need:
    """A row of the table: operations that a role needs on some resources.

    `cannot` goes on after "a worker cannot". `names` are without the namespace: topics, and ends of
    the names of groups and transactional ids. An id that ends in `-` goes on with a partition, and
    so many there may be: rights on it are on a prefix. `stages` says that what is between the
    stages of a chain that is cut belongs to them. Without a need that `is_optional`, the role does
    its work all the same.
    """

    role: Role
    kind: Kind
    names: tuple[str, ...]
    operations: tuple[str, ...]
    cannot: str
    stages: bool = False
    is_optional: bool = False

    def resources(self, settings: Settings) -> Iterator[Resource]:
        """Give the resources of a deployment, by their physical names."""
        space, cuts = settings.namespace, settings.chain_cuts if self.stages else ()
        match self.kind:
            case "topic":
                between = catalogue(cuts)[len(BASE_TOPICS) :]
                for name in (*self.names, *(one.name for one in between)):
                    yield Resource("topic", _physical(settings, name))
            case "group":
                for name in (*self.names, *(f"lanes-{cut}" for cut in cuts)):
                    yield Resource("group", f"{space}-{name}")
            case "transactional-id":
                for name in (*self.names, *(f"{cut}-" for cut in cuts)):
                    yield Resource("transactional-id", f"{space}-{name}", name.endswith("-"))


def _physical(settings: Settings, name: str) -> str:
    """Give a topic's name; a changelog's has the form that Faust gives it."""
    if name.startswith("views-"):
        return f"{settings.namespace}-{name}"
    return settings.topic(name)


def _names(*specs: TopicSpec) -> tuple[str, ...]:
    return tuple(one.name for one in specs)


def _worker(role: Role, *more: Need) -> tuple[Need, ...]:
    """Give what every worker needs to begin, and then `more`."""
    return (
        Need(
            role,
            "topic",
            _names(*BASE_TOPICS),
            ("Describe", "DescribeConfigs"),
            "see whether its topics are as they should be",
            stages=True,
        ),
        *more,
    )


_CREATES = "create topics that are missing"

TABLE: tuple[Need, ...] = (
    Need("upstream", "topic", _names(REQUESTS), ("Write",), "send requests"),
    Need(
        "product",
        "topic",
        _names(TOKENS, STEPS, RESULTS),
        ("Read",),
        "show answers as they are written",
    ),
    Need(
        "product",
        "topic",
        _names(REQUESTS, DECISIONS, COSTS, DEAD_LETTERS),
        ("Read",),
        "tell what became of a request, and what it cost",
    ),
    Need(
        "product",
        "topic",
        _names(PARKED, HOLDS, ATTEMPTS, JOURNAL),
        ("Read",),
        "tell what a run does or waits for",
        is_optional=True,
    ),
    Need(
        "product",
        "group",
        ("lanes",),
        ("Describe",),
        "be told that no worker can run the template of its request",
        is_optional=True,
    ),
    *_worker(
        "lanes",
        Need(
            "lanes",
            "topic",
            _names(*BASE_TOPICS),
            ("Create",),
            _CREATES,
            stages=True,
            is_optional=True,
        ),
        Need(
            "lanes",
            "topic",
            _names(*_INPUT),
            ("Read", "Write"),
            "take requests and commands, and move those that came to another partition",
            stages=True,
        ),
        Need(
            "lanes",
            "topic",
            _names(*_STATE),
            ("Read", "Write"),
            "decide, answer, and go on where another worker stopped",
        ),
        Need("lanes", "topic", _names(*_WATCHED), ("Write",), "show answers as they are written"),
        Need("lanes", "topic", _names(TEMPLATES), ("Read",), "follow templates that are applied"),
        Need("lanes", "group", ("lanes",), ("Read",), "take its share of partitions", stages=True),
        Need("lanes", "transactional-id", ("chain-",), ("Write",), "commit anything", stages=True),
    ),
    *_worker(
        "views",
        Need("views", "topic", _names(*COUNTED), ("Read",), "count what happens"),
        Need("views", "topic", _CHANGELOGS, ("Read", "Write"), "go on counting after its start"),
        Need(
            "views",
            "topic",
            _CHANGELOGS,
            ("Create",),
            _CREATES,
            is_optional=True,
        ),
        Need("views", "group", ("views",), ("Read",), "take its share of partitions"),
    ),
    Need("auditor", "topic", _names(*_PUBLIC), ("Read",), "replay what happened"),
    Need(
        "operator",
        "topic",
        _names(*BASE_TOPICS),
        ("Describe", "DescribeConfigs"),
        "see whether the topics are as they should be",
        stages=True,
    ),
    Need(
        "operator",
        "topic",
        _names(*BASE_TOPICS),
        ("Create",),
        _CREATES,
        stages=True,
        is_optional=True,
    ),
    Need(
        "operator",
        "topic",
        _names(CONTROL, SESSION_COMMANDS, RUN_MIGRATIONS),
        ("Write",),
        "cancel, pause and move runs, and change sessions",
    ),
    Need("operator", "topic", _names(*_ANSWERED), ("Read",), "see what became of commands"),
    Need(
        "operator",
        "topic",
        _names(*_LOOKED_AT),
        ("Read",),
        "see which runs wait, which sessions there are, and what could not be read",
        stages=True,
    ),
    Need(
        "operator",
        "topic",
        _names(REQUESTS),
        ("Write",),
        "put dead letters back",
        stages=True,
    ),
    Need("operator", "topic", _names(REDRIVES), ("Read", "Write"), "put dead letters back once"),
    Need("operator", "topic", _names(TEMPLATES), ("Read", "Write"), "apply and retire templates"),
    Need(
        "operator",
        "transactional-id",
        ("redrive-", "templates"),
        ("Write",),
        "put dead letters back, and apply templates",
    ),
    Need(
        "operator",
        "transactional-id",
        ("doctor",),
        ("Write",),
        "have `doctor` look at the brokers' clocks",
        is_optional=True,
    ),
    Need(
        "operator",
        "group",
        ("lanes", "views"),
        ("Describe",),
        "see which workers there are, and what they are to read next",
        stages=True,
    ),
)


def needs_of(*roles: Role) -> tuple[Need, ...]:
    """Give what roles need, in the order in which it is told."""
    return tuple(need for need in TABLE if need.role in roles)


def resources_of(settings: Settings) -> tuple[Resource, ...]:
    """Give all that any role needs a right on, each once."""
    found = {one for need in TABLE for one in need.resources(settings)}
    return tuple(sorted(found, key=lambda one: (one.kind, one.name)))
