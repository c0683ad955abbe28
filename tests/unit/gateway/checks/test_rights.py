"""What `doctor` finds of rights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from millstream.gateway.checks.rights import rights_found, roles_found
from millstream.streams.broker.rights.granted import NOT_TOLD, operations_of
from millstream.streams.broker.rights.needed import (
    ROLES,
    TABLE,
    WHO,
    Need,
    Resource,
    Role,
    needs_of,
)
from millstream.streams.settings import Settings

PAGE = (Path(__file__).parents[4] / "docs" / "how-to" / "rights.md").read_text("utf-8")

SETTINGS = Settings.model_construct()


def rights_of(*roles: Role) -> dict[Resource, frozenset[str] | None]:
    """Give what `roles` need, and nothing else, on all that anybody needs something on."""
    found: dict[Resource, frozenset[str]] = {}
    for need in TABLE:
        for resource in need.resources(SETTINGS):
            more = need.operations if need.role in roles else ()
            found[resource] = found.get(resource, frozenset()) | set(more)
    return dict(found)


def test_a_user_that_may_do_everything_is_told_so_in_one_line() -> None:
    (found,) = rights_found(SETTINGS, rights_of(*ROLES))
    assert (found.level, found.remedy) == ("ok", "")


def test_a_user_of_a_role_is_well_and_told_in_a_line_where_it_gets_the_rights_of_another() -> None:
    well, *lacking = rights_found(SETTINGS, rights_of("product"))
    assert (well.level, well.told) == ("ok", "this user may do what a product does")
    assert {one.level for one in lacking} == {"note"}
    (lanes,) = [one for one in lacking if one.told.startswith("a worker with lanes needs rights")]
    assert "topics acls --role lanes" in lanes.remedy
    assert {one.told.partition(" needs ")[0].partition(" cannot ")[0] for one in lacking} == {
        WHO[role] for role in ROLES if role != "product"
    }


def test_a_user_of_no_role_is_wrong_and_told_what_each_lacks() -> None:
    found = rights_found(SETTINGS, rights_of())
    assert [one.level for one in found] == ["wrong"] * len(ROLES)


def test_who_has_most_of_one_role_is_told_right_by_right_what_lacks() -> None:
    allowed = rights_of("lanes")
    ids = Resource("transactional-id", "millstream-chain-", is_prefix=True)
    allowed[ids] = frozenset()
    well, *found = rights_found(SETTINGS, allowed)
    assert well.told == "this user may do what an upstream does"  # which is a part of it
    (commits,) = [one for one in found if one.level == "wrong"]
    assert commits.told == (
        "a worker with lanes cannot commit anything: "
        "no Write on transactional id millstream-chain-*"
    )
    assert "--transactional-id millstream-chain- --resource-pattern-type prefixed" in commits.remedy


@pytest.mark.parametrize("need", TABLE, ids=lambda need: f"{need.role} {need.cannot}")
def test_each_right_that_lacks_is_told_with_a_command_for_it(need: Need) -> None:
    allowed = rights_of(*ROLES)
    lacks, *_ = need.resources(SETTINGS)
    allowed[lacks] = frozenset()
    told = rights_found(SETTINGS, allowed)
    (found,) = [
        one for one in told if one.told.startswith(f"{WHO[need.role]} cannot {need.cannot}:")
    ]
    assert f"--{lacks.kind} {lacks.name}" in found.remedy
    assert all(f"--operation {one}" in found.remedy for one in need.operations)


def test_what_brokers_do_not_say_is_neither_well_nor_wrong() -> None:
    unknown = dict.fromkeys(rights_of(*ROLES))
    (found,) = rights_found(SETTINGS, unknown)
    assert (found.level, found.told) == ("note", "not known on anything")
    group = Resource("group", "millstream-lanes")
    well, found = rights_found(SETTINGS, rights_of(*ROLES) | {group: None})
    assert well.told.startswith("as far as brokers say, ")
    assert found.told == "not known on group millstream-lanes"


def test_a_topic_that_does_not_exist_is_left_to_the_check_of_topics() -> None:
    allowed = rights_of(*ROLES)
    del allowed[Resource("topic", "millstream.requests")]
    (found,) = rights_found(SETTINGS, allowed)
    assert found.level == "ok"


def test_bits_are_operations_and_the_smallest_number_says_nothing() -> None:
    assert operations_of(NOT_TOLD) is None
    assert operations_of(0) == frozenset()
    assert operations_of(1 << 3 | 1 << 10) == {"Read", "DescribeConfigs"}
    # All that Kafka 4 knows of a topic, and operations that it may learn.
    assert operations_of(3576 | 1 << 15) == {
        *("Read", "Write", "Create", "Delete", "Alter", "Describe", "DescribeConfigs"),
        "AlterConfigs",
    }


def test_stages_of_a_chain_that_is_cut_have_topics_and_groups_too() -> None:
    cut = SETTINGS.model_copy(update={"chain_cuts": ("executor",)})
    resources = {one for need in needs_of("lanes") for one in need.resources(cut)}
    assert Resource("topic", "millstream.stage-executor") in resources
    assert Resource("group", "millstream-lanes-executor") in resources
    assert Resource("transactional-id", "millstream-executor-", is_prefix=True) in resources


def test_the_page_has_the_table() -> None:
    rows = re.findall(rf"^\| ({'|'.join(ROLES)}) \| (.*) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    assert [(role, on, rights, cannot) for role, on, rights, cannot in rows] == [
        (
            need.role,
            _on_page(need.kind, need.names),
            ", ".join(f"`{one}`" for one in need.operations),
            need.cannot + " (it does without)" * need.is_optional,
        )
        for need in TABLE
    ]


def _on_page(kind: str, names: tuple[str, ...]) -> str:
    if kind == "topic":
        return "topics `" + "`, `".join(names) + "`"
    told = (f"`NAMESPACE-{one}{'*' if one.endswith('-') else ''}`" for one in names)
    return f"{kind.replace('-', ' ')}s " + ", ".join(told)


def test_what_a_named_role_lacks_is_wrong_and_of_others_nothing_is_told() -> None:
    allowed = rights_of("upstream", "lanes", "views")
    (well,) = [
        one for one in roles_found(SETTINGS, allowed, ["lanes", "views"]) if one.level != "note"
    ]
    assert (
        well.told == "this user may do what a worker with lanes and what a worker with views does"
    )
    results = Resource("topic", SETTINGS.topic("results"))
    allowed[results] = frozenset({"Read", "Describe", "DescribeConfigs"})
    told = roles_found(SETTINGS, allowed, ["lanes", "views"])
    (wrong,) = [one for one in told if one.level == "wrong"]
    assert "no Write on topic" in wrong.told
    assert results.name in wrong.told
    assert not [one for one in told if "auditor" in one.told or "upstream" in one.told]
