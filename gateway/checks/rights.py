"""Rights: what this user may do on Kafka, against what each role needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from millstream.gateway.checks.finding import Finding, Level
from millstream.gateway.client_settings import settings_for_client
from millstream.schemas.errors import MillstreamError
from millstream.streams.broker.rights.acls import grant_command
from millstream.streams.broker.rights.granted import granted
from millstream.streams.broker.rights.needed import (
    ROLES,
    WHO,
    Need,
    Resource,
    Role,
    needs_of,
    resources_of,
)
from millstream.streams.settings import Settings

__all__ = ["check_rights", "rights_found", "roles_found"]

Missing = dict[tuple[tuple[str, ...], bool], list[Resource]]
"""Resources by the operations that lack on them, and whether they are prefixes."""


async def check_rights(roles: Collection[Role] = ()) -> tuple[Finding, ...]:
    """Whether this user may do on Kafka what these roles do; none named: what some role does."""
    try:
        settings = settings_for_client()
        allowed = await granted(settings, resources_of(settings))
    except MillstreamError:
        return ()  # told by the check of Kafka
    return roles_found(settings, allowed, roles) if roles else rights_found(settings, allowed)


def roles_found(
    settings: Settings,
    allowed: Mapping[Resource, frozenset[str] | None],
    roles: Collection[Role],
) -> tuple[Finding, ...]:
    """Give what is to be said of the rights of these roles: what one cannot do without is wrong."""
    lacking = {role: _lacking(settings, allowed, needs_of(role)) for role in roles}
    whole = [role for role, found in lacking.items() if all(need.is_optional for need, _ in found)]
    told = _well(allowed, whole)
    for role, found in lacking.items():
        told += _each(settings, role, found, "wrong")
    return (*told, *_unknown(allowed))


def rights_found(
    settings: Settings, allowed: Mapping[Resource, frozenset[str] | None]
) -> tuple[Finding, ...]:
    """Give what is to be said of rights.

    Whoever has all that some role needs is of that role: what lacks for others is a note. Wrong is
    what lacks for the role that this user is nearest to, unless it is of one that is no part of it.
    A role of which it has most is told right by right, another in one line.
    """
    lacking = {role: _lacking(settings, allowed, needs_of(role)) for role in ROLES}
    whole = [role for role, found in lacking.items() if all(need.is_optional for need, _ in found)]
    rights = {role: _rights(settings, role) for role in ROLES}
    shares = {role: _share(allowed, rights[role]) for role in ROLES if role not in whole}
    nearest = max(shares, key=lambda role: shares[role], default=None)
    told = _well(allowed, whole)
    for role, found in lacking.items():
        has_most = shares.get(role, 1.0) > 1 / 2
        is_well = any(not (has_most and rights[one] <= rights[role]) for one in whole)
        is_far = role != nearest and any(shares.values())
        level: Level = "note" if role in whole or is_well or is_far else "wrong"
        if has_most or len(found) == 1:
            told += _each(settings, role, found, level)
        else:
            told.append(_summary(role, found, level))
    return (*told, *_unknown(allowed))


def _well(
    allowed: Mapping[Resource, frozenset[str] | None], roles: Collection[Role]
) -> list[Finding]:
    unknown = sum(operations is None for operations in allowed.values())
    if not roles or unknown == len(allowed):
        return []
    known = "as far as brokers say, " if unknown else ""
    return [Finding("rights", "ok", f"{known}this user may do what {_all(roles)} does")]


def _unknown(allowed: Mapping[Resource, frozenset[str] | None]) -> list[Finding]:
    unknown = [one for one, operations in allowed.items() if operations is None]
    if not unknown:
        return []
    names = _named(unknown) if len(unknown) < len(allowed) else "anything"
    return [Finding("rights", "note", f"not known on {names}", _UNKNOWN_REMEDY)]


def _each(
    settings: Settings, role: Role, found: list[tuple[Need, Missing]], level: Level
) -> list[Finding]:
    return [
        Finding(
            "rights",
            "note" if need.is_optional else level,
            f"{WHO[role]} cannot {need.cannot}: no {_listed(operations)} on {_named(resources)}",
            _remedy(settings, operations, resources),
        )
        for need, missing in found
        for (operations, _), resources in missing.items()
    ]


def _summary(role: Role, found: list[tuple[Need, Missing]], level: Level) -> Finding:
    first = next(need for need, _ in found if not need.is_optional)
    return Finding(
        "rights",
        level,
        f"{WHO[role]} needs rights that this user lacks: it cannot {first.cannot}, among others",
        f"`millstream topics acls --role {role} --principal User:NAME` has the commands that "
        "grant them",
    )


def _share(
    allowed: Mapping[Resource, frozenset[str] | None], rights: frozenset[tuple[Resource, str]]
) -> float:
    """Give how much of a role's rights this user has, 0 to 1, as far as brokers say."""
    known = [
        operation in may
        for resource, operation in rights
        if (may := allowed.get(resource)) is not None
    ]
    return sum(known) / len(known) if known else 1.0


def _rights(settings: Settings, role: Role) -> frozenset[tuple[Resource, str]]:
    """Give what a role cannot do without, an operation each."""
    return frozenset(
        (resource, operation)
        for need in needs_of(role)
        if not need.is_optional
        for resource in need.resources(settings)
        for operation in need.operations
    )


def _lacking(
    settings: Settings,
    allowed: Mapping[Resource, frozenset[str] | None],
    needs: Iterable[Need],
) -> list[tuple[Need, Missing]]:
    found = []
    for need in needs:
        missing: Missing = defaultdict(list)
        for resource in need.resources(settings):
            # What is not in it does not exist, which the check of topics tells.
            if (may := allowed.get(resource)) is None:
                continue
            if lacks := tuple(one for one in need.operations if one not in may):
                missing[(lacks, resource.is_prefix)].append(resource)
        if missing:
            found.append((need, missing))
    return found


def _remedy(settings: Settings, operations: tuple[str, ...], resources: list[Resource]) -> str:
    return f"`{grant_command(settings, operations, resources)}`; remove rules that deny it"


def _named(resources: list[Resource]) -> str:
    by_kind: dict[str, list[str]] = defaultdict(list)
    for one in resources:
        by_kind[one.kind.replace("-", " ")].append(str(one))
    return "; ".join(
        f"{kind}{'s' * (len(names) > 1)} {', '.join(names)}" for kind, names in by_kind.items()
    )


def _listed(words: tuple[str, ...]) -> str:
    return " and no ".join(words)


def _all(roles: Iterable[Role]) -> str:
    return " and what ".join(WHO[role] for role in roles)


_UNKNOWN_REMEDY = (
    "the broker does not say (Kafka does since 2.3): `kafka-acls.sh --list --principal User:NAME` "
    "does; docs/how-to/rights.md has what is needed"
)
