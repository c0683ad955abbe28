"""What the members of a group can run, and what the requests of a number wait for, on the wire.

A member says both as it joins, and its leader tells all of them what came together. Members of
versions that know nothing of it say nothing: they are taken to have no templates, and nothing that
waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["NEEDS_MAX", "Capabilities", "Need", "suitable"]

Need = tuple[str, str | None]
"""The name of a template and its version, `None` for any that new runs may have."""

NEEDS_MAX = 8
"""So many templates are told at most that a number's requests wait for: it is asked again later."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a member can run: the names for new runs, and each version for runs that have begun."""

    names: frozenset[str] = frozenset()
    versions: frozenset[tuple[str, str]] = frozenset()

    def meet(self, need: Need) -> bool:
        """Tell whether a run that waits for this could go on here."""
        name, version = need
        return name in self.names if version is None else (name, version) in self.versions

    def claim(self) -> dict[str, Any]:
        """Give what a member says of it."""
        return {"names": sorted(self.names), "versions": sorted(self.versions)}

    @classmethod
    def claimed(cls, claim: Mapping[str, Any]) -> Capabilities:
        """Read what a member said."""
        versions = frozenset((name, version) for name, version in claim.get("versions", ()))
        return cls(frozenset(claim.get("names", ())), versions)


def needs_of(claim: Mapping[str, Any]) -> dict[int, frozenset[Need]]:
    """Read what a member said that its numbers' requests wait for."""
    return {
        int(number): frozenset((name, version) for name, version in needs)
        for number, needs in claim.get("waits", {}).items()
    }


def needs_claim(waits: Mapping[int, Iterable[Need]]) -> dict[str, list[Need]]:
    """Give what a member says that its numbers' requests wait for."""
    return {str(number): sorted(needs, key=in_order) for number, needs in waits.items() if needs}


def suitable(
    waits: Mapping[int, frozenset[Need]], members: Mapping[str, Capabilities]
) -> dict[int, frozenset[str]]:
    """Give for each number the members that have the most of what its requests wait for.

    A number of which no member has anything is left out: it may stay where it is.
    """
    suits = {}
    for number, needs in waits.items():
        met = {member: sum(map(can.meet, needs)) for member, can in members.items()}
        if most := max(met.values(), default=0):
            suits[number] = frozenset(member for member, count in met.items() if count == most)
    return suits


def needs_told(told: Mapping[str, Any], key: str) -> frozenset[Need]:
    """Read what a leader told of the group's needs; none where it tells nothing of them."""
    return frozenset((name, version) for name, version in told.get(key, ()))


def in_order(need: Need) -> tuple[str, str]:
    """Give what needs are sorted by."""
    return need[0], need[1] or ""
