"""The rules that give a role its rights, and the commands of Kafka's own tool that add them.

A rule is on a name, and on a prefix only where nobody knows how many names there are: of
transactional ids, which are numbered by partition. `Read` and `Write` bring `Describe` with them.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from millstream.streams.broker.rights.needed import Resource, Role, needs_of
from millstream.streams.settings import Settings

__all__ = ["Grant", "commands", "grant_command", "grants", "missing_grants"]

_ORDER = ("Read", "Write", "Create", "Describe", "DescribeConfigs")
_KINDS = ("topic", "group", "transactional-id")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a principal is to be allowed on one resource."""

    principal: str
    resource: Resource
    operations: tuple[str, ...]


def grants(
    settings: Settings, roles: Iterable[Role], principal: str, *, optional: bool = False
) -> tuple[Grant, ...]:
    """Give the rights of one principal that does what roles do, each resource once.

    `optional` adds rights without which the roles do their work all the same.
    """
    rights: dict[Resource, set[str]] = defaultdict(set)
    for need in needs_of(*roles):
        if optional or not need.is_optional:
            for resource in need.resources(settings):
                rights[resource].update(need.operations)
    return _granted(rights, principal)


def missing_grants(
    settings: Settings,
    allowed: Mapping[Resource, frozenset[str] | None],
    roles: Iterable[Role],
    principal: str,
) -> tuple[Grant, ...]:
    """Give what lacks of that, by what brokers say is allowed; what they do not say is not told."""
    lacking: dict[Resource, set[str]] = {}
    for one in grants(settings, roles, principal):
        if (may := allowed.get(one.resource)) is not None and (lacks := set(one.operations) - may):
            lacking[one.resource] = lacks
    return _granted(lacking, principal)


def commands(
    settings: Settings, found: Sequence[Grant], *, command_config: str | None = None
) -> tuple[str, ...]:
    """Give the commands that add rules: one for all resources with the same operations."""
    alike: dict[tuple[str, str, bool, tuple[str, ...]], list[Resource]] = defaultdict(list)
    for one in found:
        kind, is_prefix = one.resource.kind, one.resource.is_prefix
        alike[(one.principal, kind, is_prefix, one.operations)].append(one.resource)
    return tuple(
        grant_command(settings, operations, resources, principal, command_config=command_config)
        for (principal, _, _, operations), resources in alike.items()
    )


def grant_command(
    settings: Settings,
    operations: Iterable[str],
    resources: Sequence[Resource],
    principal: str = "User:NAME",
    *,
    command_config: str | None = None,
) -> str:
    """Give the command that allows operations on resources of one kind and one kind of pattern."""
    ((kind, is_prefix),) = {(resource.kind, resource.is_prefix) for resource in resources}
    words = [f"kafka-acls.sh --bootstrap-server {settings.kafka}"]
    words += [f"--command-config {shlex.quote(command_config)}"] if command_config else []
    words += [f"--add --allow-principal {shlex.quote(principal)}"]
    words += [f"--operation {operation}" for operation in operations]
    words += [f"--{kind} {resource.name}" for resource in resources]
    words += ["--resource-pattern-type prefixed"] if is_prefix else []
    return " ".join(words)


def _granted(rights: Mapping[Resource, set[str]], principal: str) -> tuple[Grant, ...]:
    return tuple(
        Grant(principal, resource, _listed(operations))
        for resource, operations in sorted(
            rights.items(), key=lambda one: (_KINDS.index(one[0].kind), one[0].is_prefix)
        )
    )


def _listed(operations: set[str]) -> tuple[str, ...]:
    implied = {"Describe"} if operations & {"Read", "Write"} else set()
    return tuple(one for one in _ORDER if one in operations - implied)
