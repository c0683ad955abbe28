"""Rights: what this user may do on Kafka, against what a worker and a client need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from millstream.gateway.checks.finding import Finding, Level
from millstream.gateway.client_settings import settings_for_client
from millstream.schemas.errors import MillstreamError
from millstream.streams.broker.rights.granted import granted
from millstream.streams.broker.rights.needed import ROLES, Need, Resource, needs_of
from millstream.streams.settings import Settings

__all__ = ["check_rights", "grant_command", "rights_found"]

Missing = dict[tuple[str, ...], list[Resource]]
"""Resources by the operations that lack on them."""


async def check_rights() -> tuple[Finding, ...]:
    """Whether this user may do on Kafka what a worker, and what a client, does."""
    try:
        settings = settings_for_client()
        needed = {
            resource
            for role in ROLES
            for need in needs_of(role)
            for resource in need.resources(settings)
        }
        allowed = await granted(settings, sorted(needed, key=lambda one: (one.kind, one.name)))
    except MillstreamError:
        return ()  # told by the check of Kafka
    return rights_found(settings, allowed)


def rights_found(
    settings: Settings, allowed: Mapping[Resource, frozenset[str] | None]
) -> tuple[Finding, ...]:
    """Give what is to be said of rights.

    Whoever has all that one role needs is of that role: what lacks for the other is a note.
    """
    lacking = {role: _lacking(settings, allowed, needs_of(role)) for role in ROLES}
    whole = [role for role, found in lacking.items() if all(need.is_optional for need, _ in found)]
    told: list[Finding] = []
    unknown = [one for one, operations in allowed.items() if operations is None]
    if whole and len(unknown) < len(allowed):
        known = "as far as brokers say, " if unknown else ""
        told.append(Finding("rights", "ok", f"{known}this user may do what {_both(whole)} does"))
    for role, found in lacking.items():
        for need, missing in found:
            level: Level = "note" if whole or need.is_optional else "wrong"
            for operations, resources in missing.items():
                told.append(
                    Finding(
                        "rights",
                        level,
                        f"a {role} cannot {need.cannot}: no {_listed(operations)} on "
                        f"{_named(resources)}",
                        _remedy(settings, operations, resources),
                    )
                )
    if unknown:
        names = _named(unknown) if len(unknown) < len(allowed) else "anything"
        told.append(Finding("rights", "note", f"not known on {names}", _UNKNOWN_REMEDY))
    return tuple(told)


def grant_command(settings: Settings, operations: Iterable[str], resources: list[Resource]) -> str:
    """Give the command of Kafka's own tool that allows operations on resources of one kind."""
    (kind,) = {resource.kind for resource in resources}
    words = [f"kafka-acls.sh --bootstrap-server {settings.kafka} --add --allow-principal User:NAME"]
    words += [f"--operation {operation}" for operation in operations]
    words += [f"--{kind} {resource.name}" for resource in resources]
    if kind == "transactional-id":
        words.append("--resource-pattern-type prefixed")
    return " ".join(words)


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
                missing[lacks].append(resource)
        if missing:
            found.append((need, missing))
    return found


def _remedy(settings: Settings, operations: tuple[str, ...], resources: list[Resource]) -> str:
    return f"`{grant_command(settings, operations, resources)}`; remove rules that deny it"


def _named(resources: list[Resource]) -> str:
    by_kind: dict[str, list[str]] = defaultdict(list)
    for one in resources:
        pattern = f"{one.name}*" if one.kind == "transactional-id" else one.name
        by_kind[one.kind.replace("-", " ")].append(pattern)
    return "; ".join(
        f"{kind}{'s' * (len(names) > 1)} {', '.join(names)}" for kind, names in by_kind.items()
    )


def _listed(words: tuple[str, ...]) -> str:
    return " and no ".join(words)


def _both(roles: Iterable[str]) -> str:
    return " and what ".join(f"a {role}" for role in roles)


_UNKNOWN_REMEDY = (
    "the broker does not say (Kafka does since 2.3): `kafka-acls.sh --list --principal User:NAME` "
    "does; docs/how-to/rights.md has what is needed"
)
