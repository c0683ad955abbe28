"""A number whose requests wait for a template goes to a member that has it, in two steps.

A broker passes over a member that joins anew and says nothing new (apache/kafka#9383).
"""

from __future__ import annotations

import itertools
import json
import random

import pytest
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

from millstream.streams.consumer.assignor import LaneAssignor, Share, share_out
from millstream.streams.consumer.capabilities import Capabilities, Need, suitable
from tests.unit.streams.consumer.test_assignor import TOPICS, Group

pytestmark = pytest.mark.rule(10)

NEW: Need = ("new", None)


def able(*names: str, version: str = "1") -> Capabilities:
    return Capabilities(frozenset(names), frozenset((name, version) for name in names))


class Apps(Group):
    """A group whose members run different apps."""

    def __init__(self, count: int = 4) -> None:
        super().__init__(count)
        self.can_run: dict[str, Capabilities] = {}

    def start(self, name: str, *templates: str) -> None:
        self.can_run[name] = able(*templates)
        self.members[name] = LaneAssignor(lambda: self.can_run[name])
        self.deal()

    def owner(self, number: int) -> str:
        (owner,) = [name for name, one in self.members.items() if number in one._has]
        return owner


class OldAssignor(LaneAssignor):
    """A member of the version before: it says nothing of templates, and reads nothing of them."""

    def metadata(self, topics: object) -> ConsumerProtocolMemberMetadata:
        now = super().metadata(topics)  # type: ignore[arg-type]
        claim = json.loads(now.user_data)
        old = {key: claim[key] for key in ("round", "holds")}
        return ConsumerProtocolMemberMetadata(0, now.subscription, json.dumps(old).encode())


def test_a_number_goes_to_who_has_what_its_requests_wait_for_once_it_is_let_go() -> None:
    group = Apps()
    group.start("a", "old")
    group.start("b", "old", "new")
    group.settle()
    a, b = group.members["a"], group.members["b"]
    number = min(a._has)
    a.waits(number, frozenset({NEW}))
    assert a.has_news
    group.deal()
    assert a.to_revoke == {number}
    assert group.owner(number) == "a"  # until its runs have ended
    assert not a.has_news
    group.settle()
    assert group.owner(number) == "b"
    assert len(a._has) == len(b._has) == 2  # it got another one
    assert not any(one.has_news for one in group.members.values())


def test_what_no_member_has_moves_nothing_and_is_asked_for_once() -> None:
    group = Apps()
    group.start("a", "old")
    group.start("b", "old")
    before = group.settle()
    group.members["a"].waits(0, frozenset({NEW}))
    group.members["a"].waits(3, frozenset({NEW}))
    assert group.deal() == before
    assert not any(one.has_news for one in group.members.values())


def test_a_member_that_comes_to_have_what_others_wait_for_says_so() -> None:
    group = Apps()
    group.start("a", "old")
    group.start("b", "old")
    group.settle()
    a, b = group.members["a"], group.members["b"]
    number = min(a._has)
    a.waits(number, frozenset({NEW}))
    group.deal()
    group.can_run["b"] = able("old", "other")
    assert not b.has_news
    group.can_run["b"] = able("old", "new")
    assert b.has_news
    group.deal()
    assert not b.has_news
    group.settle()
    assert group.owner(number) == "b"


def test_a_member_that_asks_again_says_something_new() -> None:
    group = Apps()
    group.start("a", "old")
    group.start("b", "old", "new")
    group.settle()
    a = group.members["a"]
    a.waits(min(a._has), frozenset({NEW}))
    group.deal()
    first = a.metadata(TOPICS).user_data
    a._to_revoke = frozenset()  # as a leader deals that could not move it
    assert a.has_news
    assert a.metadata(TOPICS).user_data != first


def test_who_is_alone_asks_for_nothing() -> None:
    group = Apps()
    group.start("a", "old")
    group.members["a"].waits(0, frozenset({NEW}))
    assert not group.members["a"].has_news


def test_all_members_hear_what_any_of_them_has() -> None:
    group = Apps()
    group.start("a", "old")
    group.start("b", "new")
    members = group.members.values()
    assert all(one.group_names == {"old", "new"} for one in members)
    assert all(one.group_versions == {("old", "1"), ("new", "1")} for one in members)


def test_a_run_that_has_begun_needs_its_own_version() -> None:
    needs = {0: frozenset({("own", "1")}), 1: frozenset({("own", None)})}
    members = {"one": able("own", version="1"), "two": able("own", version="2")}
    assert suitable(needs, members) == {0: {"one"}, 1: {"one", "two"}}
    retired = {"three": Capabilities(frozenset(), frozenset({("own", "1")}))}
    assert suitable(needs, retired) == {0: {"three"}}


def test_who_has_the_most_of_what_is_waited_for_gets_it() -> None:
    needs = {0: frozenset({("x", None), ("y", None)})}
    members = {"a": able("x"), "b": able("x", "y"), "c": able()}
    assert suitable(needs, members) == {0: {"b"}}


@pytest.mark.parametrize("leader", ["old", "new"])
def test_members_of_the_version_before_are_dealt_with_alike(leader: str) -> None:
    group = Apps()
    group.members["old"] = OldAssignor()
    group.deal()
    group.start("new", "new")
    group.settle()
    members = group.members
    group.members = {name: members[name] for name in sorted(members, key=lambda one: one != leader)}
    assert len(members["old"]._has) == len(members["new"]._has) == 2
    new = members["new"]
    new.waits(min(new._has), frozenset({("another", None)}))
    group.deal()
    assert not new.to_revoke


def test_a_leader_of_the_version_before_tells_nothing_of_templates() -> None:
    one = LaneAssignor(lambda: able("old"))
    one.metadata(TOPICS)
    told = json.dumps({"round": 1, "wanted": [], "owed": 0}).encode()
    dealt = [("requests", [0, 1])]
    one.on_assignment(ConsumerProtocolMemberAssignment(0, dealt, told))
    one.waits(0, frozenset({NEW}))
    assert (one.group_names, one.has_news) == (frozenset(), False)


def _something_happens(group: Apps, step: int, rng: random.Random) -> None:
    names = ("x", "y", "z")
    match rng.random():
        case chance if chance < 0.3:
            group.start(f"m{step}", *rng.sample(names, rng.randint(0, 3)))
        case chance if chance < 0.45 and len(group.members) > 1:
            del group.members[rng.choice(sorted(group.members))]
        case chance if chance < 0.6:
            group.can_run[rng.choice(sorted(group.members))] = able(*rng.sample(names, 2))
        case _:
            number = rng.choice(range(group.cluster.partitions["requests"]))
            member = group.members[group.owner(number)]
            needs = {(one, None) for one in rng.sample(names, rng.randint(1, 2))}
            lacks = frozenset(need for need in needs if not member._can_run().meet(need))
            member.waits(number, lacks)
    group.deal()


@pytest.mark.parametrize("seed", range(30))
def test_a_group_of_different_apps_settles_and_loses_no_number(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311  only to be repeatable
    group = Apps(rng.choice([1, 3, 8, 13]))
    numbers = list(range(group.cluster.partitions["requests"]))
    group.start("m0", "x")
    for step in range(1, 25):
        _something_happens(group, step, rng)
        rounds = 0
        while any(one.to_revoke for one in group.members.values()):
            for one in group.members.values():
                for number in one.to_revoke:
                    one.release(number)
            group.deal()
            assert sorted(itertools.chain(*(one._has for one in group.members.values()))) == numbers
            rounds += 1
            assert rounds <= 6
        sizes = [len(one._has) for one in group.members.values()]
        assert max(sizes) - min(sizes) <= 1
        # What another could go on with is where it is only until the group is asked again.
        said = {name: one._claims for name, one in group.members.items()}
        for name, one in group.members.items():
            for number, members in suitable(one._waits, said).items():
                assert name in members or one.has_news, number


def test_two_numbers_that_wait_are_shared_among_those_that_have_it() -> None:
    held = {"a": frozenset[int](), "b": frozenset[int](), "c": frozenset({2})}
    suits = {0: frozenset({"a", "b"}), 1: frozenset({"a", "b"})}
    assert share_out(3, held, suits) == {
        "a": Share(frozenset({0})),
        "b": Share(frozenset({1})),
        "c": Share(frozenset({2})),
    }
