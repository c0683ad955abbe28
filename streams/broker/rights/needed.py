"""The rights on Kafka that each role needs: one table, which `doctor` and its page go by.

Named as Kafka names them. `Read` and `Write` bring `Describe` with them. `IdempotentWrite` is not
among them: since Kafka 2.8, whoever may write to some topic may do so idempotently (KIP-679).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from millstream.schemas.topics import (
    BASE_TOPICS,
    CHECKPOINTS,
    CONTROL,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    OBEYED,
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

__all__ = ["ROLES", "TABLE", "Kind", "Need", "Resource", "Role", "needs_of"]

Role = Literal["worker", "client"]
Kind = Literal["topic", "group", "transactional-id"]

ROLES: tuple[Role, ...] = ("worker", "client")

_INPUT = (REQUESTS, CONTROL, SESSION_COMMANDS, RUN_MIGRATIONS)
_WATCHED = (TOKENS, STEPS)
_COUNTED = (
    *(TOKENS, COSTS, CHECKPOINTS, RESULTS, SESSIONS, SESSION_STATES, SESSION_EVENTS, DECISIONS),
    DEAD_LETTERS,
)
_STATE = tuple(one for one in BASE_TOPICS if one not in {*_INPUT, *_WATCHED, REDRIVES, TEMPLATES})

_CHANGELOGS = tuple(f"views-{one.name.replace('-', '_')}-changelog" for one in _COUNTED)


@dataclass(frozen=True, slots=True)
class Resource:
    """What rights are given on. Of a transactional id, `name` is what all of them begin with."""

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class Need:
    """A row of the table: operations that a role needs on some resources.

    `cannot` goes on after "a worker cannot". `names` are topics without the namespace, or ends of
    groups' names; `stages` says that topics and groups between the stages of a chain that is cut
    belong to them. Without a need that `is_optional`, the role does its work all the same.
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
                yield Resource("transactional-id", f"{space}-")


def _physical(settings: Settings, name: str) -> str:
    """Give a topic's name; a changelog's has the form that Faust gives it."""
    if name.startswith("views-"):
        return f"{settings.namespace}-{name}"
    return settings.topic(name)


def _names(specs: tuple[TopicSpec, ...]) -> tuple[str, ...]:
    return tuple(one.name for one in specs)


TABLE: tuple[Need, ...] = (
    Need(
        "worker",
        "topic",
        _names(BASE_TOPICS),
        ("Describe", "DescribeConfigs"),
        "see whether its topics are as they should be",
        stages=True,
    ),
    Need(
        "worker",
        "topic",
        (*_names(BASE_TOPICS), *_CHANGELOGS),
        ("Create",),
        "create topics that are missing",
        stages=True,
        is_optional=True,
    ),
    Need(
        "worker",
        "topic",
        _names(_INPUT),
        ("Read", "Write"),
        "take requests and commands, and move those that came to another partition",
        stages=True,
    ),
    Need(
        "worker",
        "topic",
        _names(_STATE),
        ("Read", "Write"),
        "decide, answer, and go on where another worker stopped",
    ),
    Need("worker", "topic", _names(_WATCHED), ("Write",), "show answers as they are written"),
    Need("worker", "topic", _names(_COUNTED), ("Read",), "count what happens, and show sessions"),
    Need("worker", "topic", _CHANGELOGS, ("Read", "Write"), "go on counting after its start"),
    Need("worker", "topic", _names((TEMPLATES,)), ("Read",), "follow templates that are applied"),
    Need(
        "worker",
        "topic",
        _names((REDRIVES,)),
        ("Write",),
        "let `doctor` look at the brokers' clocks",
        is_optional=True,
    ),
    Need(
        "worker",
        "group",
        ("lanes", "views"),
        ("Read",),
        "take its share of partitions",
        stages=True,
    ),
    Need("worker", "transactional-id", (), ("Write",), "commit anything"),
    Need("client", "topic", _names(_INPUT), ("Write",), "send requests and commands"),
    Need(
        "client",
        "topic",
        _names(
            (
                *(REQUESTS, RESULTS, TOKENS, STEPS, DECISIONS, OBEYED, SESSION_ANSWERS),
                RUN_MIGRATION_ANSWERS,
            )
        ),
        ("Read",),
        "see answers, and what became of requests and commands",
    ),
    Need(
        "client",
        "group",
        ("lanes",),
        ("Describe",),
        "be told that no worker can run the template of its request",
        is_optional=True,
    ),
)


def needs_of(role: Role) -> tuple[Need, ...]:
    """Give what a role needs, in the order in which it is told."""
    return tuple(need for need in TABLE if need.role == role)
