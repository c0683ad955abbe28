"""Which worker has which lanes: a number is dealt whole, stays, and changes hands in two steps.

Faust's apps without tables use aiokafka's round-robin, which deals out single partitions: with
three workers and four partitions, the commands of a partition went to another worker than its
requests, and each rebalance moved nearly all of them. Here a number stands for that partition of
every topic, and each member says which numbers it holds:

- A number that is held stays where it is, and one that nobody holds goes to whoever has too few.
- Where a member has too many, it is told which are *wanted*. It keeps them until it has brought
  their runs to an end; then it joins anew without them, and they are dealt out as free ones.

- A number whose requests wait for a template that its member lacks is wanted too, where another
  member has it: that one gets it, and lets one of its own go if it has too many then.

So no lane opens while a member of the group still works in its predecessor. This is what KIP-429
(cooperative rebalancing) does, within the older protocol that aiokafka speaks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

from millstream.streams.consumer.capabilities import (
    Capabilities,
    Need,
    in_order,
    needs_claim,
    needs_of,
    needs_told,
    suitable,
)

_VERSION = 0


@dataclass(frozen=True, slots=True)
class Share:
    """A member's part: its numbers now, those of them it is to let go, and how many are to come."""

    numbers: frozenset[int]
    to_revoke: frozenset[int] = frozenset()
    missing: int = 0


def share_out(
    count: int,
    held: Mapping[str, frozenset[int]],
    suits: Mapping[int, frozenset[str]] | None = None,
) -> dict[str, Share]:
    """Deal the numbers below `count` to members by what each holds; no number is held twice.

    `suits` gives the members that a number is better off with, where there are any. Every leader
    deals alike, and a group whose members have what they should is left as it is.
    """
    suits = suits or {}
    least, more = divmod(count, len(held))
    kept = {one: sorted(number for number in held[one] if number < count) for one in held}
    free = sorted(set(range(count)).difference(*held.values()), reverse=True)
    taken: dict[str, list[int]] = {member: [] for member in held}
    for number in [one for one in reversed(free) if one in suits]:
        best = min(suits[number], key=lambda one: (len(kept[one]) + len(taken[one]), one))
        # No more than its least share, so that for each it can let another go.
        if len(taken[best]) < max(1, least):
            taken[best].append(number)
            free.remove(number)
    size = {member: len(kept[member]) + len(taken[member]) for member in held}
    shares = {}
    for place, member in enumerate(sorted(held, key=lambda one: (-size[one], one))):
        due = least + (place < more)
        stays = [one for one in kept[member] if member in suits.get(one, (member,))]
        misplaced = set(kept[member]).difference(stays)
        surplus = stays[max(0, due - len(taken[member])) :]
        # The larger shares went to those who hold the most, so there is enough for all others.
        more_taken = [free.pop() for _ in range(min(due - size[member], len(free)))]
        shares[member] = Share(
            frozenset(kept[member] + taken[member] + more_taken),
            frozenset(misplaced.union(surplus)),
            max(0, due - size[member] - len(more_taken)),
        )
    return shares


class LaneAssignor(AbstractPartitionAssignor):  # type: ignore[misc]
    """One member's side of it, and the dealing where this member leads the group."""

    # What members tell each other has no versions: a change of it is another assignor.
    name = "millstream-lanes-1"

    def __init__(
        self,
        can_run: Callable[[], Capabilities] = Capabilities,
        *,
        worker: str = "",
        policy_digest: str | None = None,
    ) -> None:
        self._worker = worker
        self._policy = {} if policy_digest is None else {"policy": policy_digest}
        self._can_run = can_run
        self._claims = Capabilities()
        self._waits: dict[int, frozenset[Need]] = {}
        self._claimed_waits: dict[int, frozenset[Need]] = {}
        self._group_names: frozenset[str] = frozenset()
        self._group_versions: frozenset[tuple[str, str]] = frozenset()
        self._group_needs: frozenset[Need] = frozenset()
        self._group_met: frozenset[Need] = frozenset()
        self._group_size = 1
        self._asked = 0
        self._round = 0
        self._has: frozenset[int] = frozenset()
        self._claimed: frozenset[int] = frozenset()
        self._released: frozenset[int] = frozenset()
        self._to_revoke: frozenset[int] = frozenset()
        self._missing = 0

    @property
    def to_revoke(self) -> frozenset[int]:
        """The numbers that another member is to have, once this one has let go of them."""
        return self._to_revoke

    @property
    def missing(self) -> int:
        """How many numbers this member is to have that others work on still."""
        return self._missing

    @property
    def given_back(self) -> frozenset[int]:
        """The numbers that were let go and are still dealt to this member: it has to join anew."""
        return self._released

    def release(self, number: int) -> None:
        """Hold a number no more, from the next time on that this member joins."""
        self._released |= {number}

    @property
    def group_names(self) -> frozenset[str]:
        """The names of templates that some member had when the group was last dealt."""
        return self._group_names

    @property
    def group_versions(self) -> frozenset[tuple[str, str]]:
        """The name and version of each template that some member had with its tools then."""
        return self._group_versions

    def meets(self, need: Need) -> bool:
        """Tell whether this member says of itself that it has something."""
        return self._can_run().meet(need)

    def waits(self, number: int, needs: frozenset[Need]) -> None:
        """Hear what the requests of a number wait for, that this member lacks.

        What is heard last of a number is told until it is dealt to another.
        """
        self._waits[number] = needs

    @property
    def has_news(self) -> bool:
        """Whether the group may deal better if it is asked to.

        It has others, and requests of a number wait for something that was not told or that
        another has, or this member has come to have what they wait for elsewhere.
        """
        if self._group_size == 1:
            return False
        told = self._claimed_waits
        if any(needs - told.get(number, frozenset()) for number, needs in self._waits.items()):
            return True
        stay = self._waits.keys() - self._to_revoke
        if any(self._waits[number] & self._group_met for number in stay):
            return True
        now, then = self._can_run(), self._claims
        return any(now.meet(need) and not then.meet(need) for need in self._group_needs)

    def forget(self) -> None:
        """Claim nothing: this member was thrown out, and others may have what it had."""
        self._has = self._released = frozenset()

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Say what this member reads and holds."""
        self._claimed = self._has - self._released
        self._asked += self.has_news  # a broker passes over who joins anew and says nothing new
        self._claims, self._claimed_waits = self._can_run(), dict(self._waits)
        claim = {
            "round": self._round,
            "holds": sorted(self._claimed),
            "waits": needs_claim(self._claimed_waits),
            "asked": self._asked,
            "worker": self._worker,
            **self._policy,
            **self._claims.claim(),
        }
        return ConsumerProtocolMemberMetadata(_VERSION, sorted(topics), json.dumps(claim).encode())

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Take what this member was dealt."""
        told = json.loads(assignment.user_data)
        has = frozenset(number for _, numbers in assignment.assignment for number in numbers)
        # What was let go after this join began is still dealt; what was let go before is new.
        self._released &= has & self._claimed
        self._round, self._missing = told["round"], told["owed"]
        self._to_revoke, self._has = frozenset(told["wanted"]), has
        self._waits = {number: needs for number, needs in self._waits.items() if number in has}
        # A leader of an older version tells nothing of these.
        self._group_size = told.get("members", 1)
        self._group_names = frozenset(told.get("names", ()))
        self._group_versions = frozenset((name, one) for name, one in told.get("versions", ()))
        self._group_needs = needs_told(told, "needs")
        self._group_met = needs_told(told, "met")

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Deal for the whole group.

        While members read different topics, as when the chain is being cut elsewhere, those that
        read the most have all: a number is never split.
        """
        topics = max((tuple(sorted(one.subscription)) for one in members.values()), key=_most)
        count = max((len(cluster.partitions_for_topic(topic) or ()) for topic in topics), default=0)
        claims = {
            member: json.loads(one.user_data)
            for member, one in members.items()
            if tuple(sorted(one.subscription)) == topics
        }
        can_run = {member: Capabilities.claimed(claim) for member, claim in claims.items()}
        waits: dict[int, frozenset[Need]] = {}
        for claim in claims.values():
            for number, needs in needs_of(claim).items():
                waits[number] = waits.get(number, frozenset()) | needs
        shares = share_out(count, _undisputed(claims), suitable(waits, can_run))
        needs = frozenset[Need]().union(*waits.values())
        told = {
            "round": max(claim["round"] for claim in claims.values()) + 1,
            "members": len(claims),
            "names": sorted(frozenset().union(*(one.names for one in can_run.values()))),
            "versions": sorted(frozenset().union(*(one.versions for one in can_run.values()))),
            "needs": sorted(needs, key=in_order),
            "met": sorted(filter(_met_by(can_run.values()), needs), key=in_order),
        }
        nothing = Share(frozenset())
        return {
            member: _assignment(topics, shares.get(member, nothing), told) for member in members
        }


def _most(topics: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    return len(topics), topics


def _met_by(members: Iterable[Capabilities]) -> Callable[[Need], bool]:
    everybody = tuple(members)
    return lambda need: any(one.meet(need) for one in everybody)


def _undisputed(claims: Mapping[str, Mapping[str, Any]]) -> dict[str, frozenset[int]]:
    """Give each number that two claim to the one who was dealt it last."""
    held: dict[int, str] = {}
    for member in sorted(claims, key=lambda member: (claims[member]["round"], member)):
        held.update(dict.fromkeys(claims[member]["holds"], member))
    return {
        member: frozenset(number for number, holder in held.items() if holder == member)
        for member in claims
    }


def _assignment(
    topics: Iterable[str], share: Share, told_to_all: Mapping[str, Any]
) -> ConsumerProtocolMemberAssignment:
    told = {**told_to_all, "wanted": sorted(share.to_revoke), "owed": share.missing}
    numbers = sorted(share.numbers)
    return ConsumerProtocolMemberAssignment(
        _VERSION,
        [(topic, numbers) for topic in topics] if numbers else [],
        json.dumps(told).encode(),
    )
