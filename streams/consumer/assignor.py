"""Which worker has which lanes: a number is dealt whole, stays, and changes hands in two steps.

Faust's apps without tables use aiokafka's round-robin, which deals out single partitions: with
three workers and four partitions, the commands of a partition went to another worker than its
requests, and each rebalance moved nearly all of them. Here a number stands for that partition of
every topic, and each member says which numbers it holds:

- A number that is held stays where it is, and one that nobody holds goes to whoever has too few.
- Where a member has too many, it is told which are *wanted*. It keeps them until it has brought
  their runs to an end; then it joins anew without them, and they are dealt out as free ones.

So no lane opens while a member of the group still works in its predecessor. This is what KIP-429
(cooperative rebalancing) does, within the older protocol that aiokafka speaks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

_VERSION = 0


@dataclass(frozen=True, slots=True)
class Share:
    """A member's part: its numbers now, those of them it is to let go, and how many are to come."""

    numbers: frozenset[int]
    to_revoke: frozenset[int] = frozenset()
    missing: int = 0


def share_out(count: int, held: Mapping[str, frozenset[int]]) -> dict[str, Share]:
    """Deal the numbers below `count` to members by what each holds; no number is held twice.

    Every leader deals alike, and a group whose members have what they should is left as it is.
    """
    members = sorted(held, key=lambda member: (-len(held[member]), member))
    least, more = divmod(count, len(members))
    free = sorted(set(range(count)).difference(*held.values()), reverse=True)
    shares = {}
    for place, member in enumerate(members):
        due = least + (place < more)
        kept = sorted(number for number in held[member] if number < count)
        to_revoke = kept[due:]
        # The larger shares went to those who hold the most, so there is enough for all others.
        taken = [free.pop() for _ in range(min(due - len(kept), len(free)))]
        missing = max(0, due - len(kept) - len(taken))
        shares[member] = Share(frozenset(kept + taken), frozenset(to_revoke), missing)
    return shares


class LaneAssignor(AbstractPartitionAssignor):  # type: ignore[misc]
    """One member's side of it, and the dealing where this member leads the group."""

    # What members tell each other has no versions: a change of it is another assignor.
    name = "millstream-lanes-1"

    def __init__(self) -> None:
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

    def forget(self) -> None:
        """Claim nothing: this member was thrown out, and others may have what it had."""
        self._has = self._released = frozenset()

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Say what this member reads and holds."""
        self._claimed = self._has - self._released
        claim = {"round": self._round, "holds": sorted(self._claimed)}
        return ConsumerProtocolMemberMetadata(_VERSION, sorted(topics), json.dumps(claim).encode())

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Take what this member was dealt."""
        told = json.loads(assignment.user_data)
        has = frozenset(number for _, numbers in assignment.assignment for number in numbers)
        # What was let go after this join began is still dealt; what was let go before is new.
        self._released &= has & self._claimed
        self._round, self._missing = told["round"], told["owed"]
        self._to_revoke, self._has = frozenset(told["wanted"]), has

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
        shares = share_out(count, _undisputed(claims))
        newest = max(claim["round"] for claim in claims.values()) + 1
        nothing = Share(frozenset())
        return {
            member: _assignment(topics, shares.get(member, nothing), newest) for member in members
        }


def _most(topics: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    return len(topics), topics


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
    topics: Iterable[str], share: Share, newest: int
) -> ConsumerProtocolMemberAssignment:
    told = {"round": newest, "wanted": sorted(share.to_revoke), "owed": share.missing}
    numbers = sorted(share.numbers)
    return ConsumerProtocolMemberAssignment(
        _VERSION,
        [(topic, numbers) for topic in topics] if numbers else [],
        json.dumps(told).encode(),
    )
