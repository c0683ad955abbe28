"""Rules by role, and the commands that add them."""

from __future__ import annotations

import shlex
from itertools import pairwise

import pytest

from millstream.streams.broker.rights.acls import Grant, commands, grants, missing_grants
from millstream.streams.broker.rights.needed import ROLES, Resource, Role, needs_of
from millstream.streams.settings import Settings

SETTINGS = Settings.model_construct(kafka="broker.example:9093")


def told(lines: str) -> dict[tuple[str, str, bool], set[str]]:
    """Read commands as the tool does: operations by principal, resource and kind of pattern."""
    found: dict[tuple[str, str, bool], set[str]] = {}
    for line in lines.splitlines():
        if line.startswith("#"):
            continue
        program, *words = shlex.split(line)
        assert program == "kafka-acls.sh"
        assert "--add" in words
        given: dict[str, list[str]] = {}
        for name, value in pairwise(words):
            given.setdefault(name, []).append(value)
        (who,) = given["--allow-principal"]
        prefixed = given.get("--resource-pattern-type") == ["prefixed"]
        for kind in ("topic", "group", "transactional-id"):
            for name in given.get(f"--{kind}", ()):
                found.setdefault((who, f"{kind} {name}", prefixed), set()).update(
                    given["--operation"]
                )
    return found


@pytest.mark.parametrize("role", ROLES)
def test_commands_give_a_role_what_it_needs_and_nothing_else(role: Role) -> None:
    lines = "\n".join(commands(SETTINGS, grants(SETTINGS, [role], "User:me")))
    wanted: dict[tuple[str, str, bool], set[str]] = {}
    for need in needs_of(role):
        if need.is_optional:
            continue
        for one in need.resources(SETTINGS):
            at = ("User:me", f"{one.kind} {one.name}", one.is_prefix)
            wanted.setdefault(at, set()).update(need.operations)
    given = told(lines)
    assert given.keys() == wanted.keys()
    for at, operations in wanted.items():
        # `Read` and `Write` bring `Describe` with them.
        assert operations - given[at] <= ({"Describe"} if given[at] & {"Read", "Write"} else set())
        assert given[at] <= operations


def test_a_prefix_is_given_only_on_transactional_ids_of_partitions() -> None:
    found = grants(SETTINGS, ROLES, "User:me", optional=True)
    assert {one.resource.name for one in found if one.resource.is_prefix} == {
        "millstream-chain-",
        "millstream-redrive-",
    }


def test_an_upstream_may_write_requests_and_no_more() -> None:
    (only,) = grants(SETTINGS, ["upstream"], "User:crm")
    assert only == Grant("User:crm", Resource("topic", "millstream.requests"), ("Write",))


def test_nobody_but_lanes_and_operators_may_write_anything_but_requests() -> None:
    for role in ("product", "auditor"):
        operations = {one for need in needs_of(role) for one in need.operations}
        assert operations <= {"Read", "Describe"}


def test_names_that_a_shell_would_read_are_quoted() -> None:
    (command,) = commands(
        SETTINGS,
        grants(SETTINGS, ["upstream"], "User:CN=crm, O=Shop"),
        command_config="a folder/admin.properties",
    )
    assert "'User:CN=crm, O=Shop'" in command
    assert "--command-config 'a folder/admin.properties'" in command


def test_what_lacks_is_told_and_what_brokers_do_not_say_is_not() -> None:
    group, topic = Resource("group", "millstream-lanes"), Resource("topic", "millstream.results")
    allowed: dict[Resource, frozenset[str] | None] = {
        one.resource: frozenset({*one.operations, "Describe"})
        for one in grants(SETTINGS, ["lanes"], "User:w")
    }
    allowed |= {group: None, topic: frozenset({"Read", "Describe", "DescribeConfigs"})}
    assert missing_grants(SETTINGS, allowed, ["lanes"], "User:w") == (
        Grant("User:w", topic, ("Write",)),
    )
