"""Numbers are dealt whole, stay where they are, and change hands only once they are let go."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

from millstream.streams.consumer.assignor import LaneAssignor, Share, share_out

pytestmark = pytest.mark.rule(10)

TOPICS = ("control", "requests")


class Cluster(ClusterMetadata):  # type: ignore[misc]
    """Knows how many partitions each topic has."""

    def __init__(self, **partitions: int) -> None:
        super().__init__()
        self.partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        count = self.partitions.get(topic)
        return None if count is None else set(range(count))


class Group:
    """The members of a group, each with its assignor; dealing goes through the wire's form."""

    def __init__(self, count: int = 4, topics: tuple[str, ...] = TOPICS) -> None:
        self.cluster = Cluster(**dict.fromkeys(topics, count))
        self.topics = topics
        self.members: dict[str, LaneAssignor] = {}

    def deal(self) -> dict[str, dict[str, list[int]]]:
        joined = {
            name: ConsumerProtocolMemberMetadata.decode(one.metadata(self.topics).encode())
            for name, one in self.members.items()
        }
        leader = next(iter(self.members.values()))
        dealt = leader.assign(self.cluster, joined)
        for name, assignment in dealt.items():
            raw = ConsumerProtocolMemberAssignment.decode(assignment.encode())
            self.members[name].on_assignment(raw)
        return {name: dict(one.assignment) for name, one in dealt.items()}

    def join(self, name: str) -> dict[str, dict[str, list[int]]]:
        self.members[name] = LaneAssignor()
        return self.deal()

    def settle(self) -> dict[str, dict[str, list[int]]]:
        """Let go of all that is wanted until nothing more is."""
        while any(one.to_revoke for one in self.members.values()):
            for one in self.members.values():
                for number in one.to_revoke:
                    one.release(number)
            dealt = self.deal()
        return dealt


def test_a_number_is_dealt_whole_whatever_the_number_of_members() -> None:
    group = Group()
    for name in "abc":  # three members and four numbers: round-robin tears them apart
        group.join(name)
    dealt = group.settle()
    assert all(of["control"] == of["requests"] for of in dealt.values())
    assert sorted(len(of["requests"]) for of in dealt.values()) == [1, 1, 2]
    assert sorted(itertools.chain(*(of["requests"] for of in dealt.values()))) == [0, 1, 2, 3]


def test_a_newcomer_gets_nothing_that_another_has_not_let_go() -> None:
    group = Group()
    group.join("a")
    assert group.join("b") == {
        "a": {topic: [0, 1, 2, 3] for topic in TOPICS},
        "b": {},
    }
    a = group.members["a"]
    assert a.to_revoke == {2, 3}
    a.release(3)
    dealt = group.deal()
    assert (dealt["a"]["requests"], dealt["b"]["requests"]) == ([0, 1, 2], [3])
    assert (a.to_revoke, a.missing) == ({2}, 0)
    assert group.members["b"].missing == 1


def test_a_member_that_leaves_moves_nothing_but_what_it_had() -> None:
    group = Group(6)
    for name in "abc":
        group.join(name)
    before = group.settle()
    del group.members["b"]
    after = group.deal()
    assert all(set(before[name]["requests"]) < set(after[name]["requests"]) for name in "ac")


def test_dealing_again_changes_nothing() -> None:
    group = Group(7)
    for name in "abc":
        group.join(name)
    settled = group.settle()
    assert group.deal() == settled
    assert not any(one.to_revoke for one in group.members.values())


def test_what_is_let_go_while_the_group_deals_is_given_back_at_the_next_join() -> None:
    group = Group()
    group.join("a")
    a = group.members["a"]
    a.metadata(TOPICS)  # the join is under way
    a.release(3)
    stale = {"round": 9, "wanted": [3], "owed": 0}
    dealt = [("requests", [0, 1, 2, 3])]
    a.on_assignment(ConsumerProtocolMemberAssignment(0, dealt, json.dumps(stale).encode()))
    assert a.given_back == {3}
    assert json.loads(a.metadata(TOPICS).user_data)["holds"] == [0, 1, 2]
    group.deal()  # and it comes back as a new one: there is nobody else
    assert a.given_back == frozenset()
    assert json.loads(a.metadata(TOPICS).user_data)["holds"] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["a", "z"])
def test_who_was_thrown_out_claims_nothing_and_a_stale_claim_loses_to_a_newer_one(
    name: str,
) -> None:
    group = Group()
    group.join(name)
    zombie = group.members.pop(name)
    group.join("b")
    group.deal()
    group.members[name] = zombie  # it does not know yet
    assert group.deal()[name] == {}
    b = group.members["b"]
    assert json.loads(b.metadata(TOPICS).user_data)["holds"] == [0, 1, 2, 3]
    b.forget()
    assert json.loads(b.metadata(TOPICS).user_data)["holds"] == []


def test_a_member_says_which_policy_it_has() -> None:
    told = LaneAssignor(policy_digest="0f").metadata(TOPICS)
    assert json.loads(told.user_data)["policy"] == "0f"
    assert "policy" not in json.loads(LaneAssignor().metadata(TOPICS).user_data)


def test_while_members_read_different_topics_those_that_read_the_most_have_all() -> None:
    group = Group()
    old, new = LaneAssignor(), LaneAssignor()
    dealt = new.assign(
        group.cluster, {"old": old.metadata(["requests"]), "new": new.metadata(TOPICS)}
    )
    assert dealt["old"].assignment == []
    assert dict(dealt["new"].assignment) == {topic: [0, 1, 2, 3] for topic in TOPICS}


@pytest.mark.parametrize("seed", range(20))
def test_members_that_come_and_go_have_equal_shares_of_all_numbers(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311  only to be repeatable
    held = {"m0": frozenset(range(13))}
    for name in range(1, 30):
        if rng.random() < 0.5 or len(held) == 1:
            held[f"m{name}"] = frozenset()
        else:
            del held[rng.choice(sorted(held))]
        shares = share_out(13, held)
        while any(share.to_revoke for share in shares.values()):
            assert all(held[member] <= shares[member].numbers for member in held)
            held = {member: share.numbers - share.to_revoke for member, share in shares.items()}
            shares = share_out(13, held)
        held = {member: share.numbers for member, share in shares.items()}
        sizes = [len(numbers) for numbers in held.values()]
        assert (sum(sizes), set.union(*map(set, held.values()))) == (13, set(range(13)))
        assert max(sizes) - min(sizes) <= 1


def test_numbers_beyond_the_topics_partitions_are_no_ones() -> None:
    assert share_out(1, {"a": frozenset({0, 5})}) == {"a": Share(frozenset({0}))}
