"""`millstream topics acls`: rights by role, printed for people and programs."""

from __future__ import annotations

import json
import re

from typer.testing import CliRunner

from millstream.gateway.cli import app
from millstream.gateway.commands.user_roles import UserRole


def test_the_command_prints_each_role_for_its_own_user() -> None:
    runner = CliRunner()
    environment = {"MILLSTREAM_KAFKA": "b:1", "MILLSTREAM_NAMESPACE": "shop"}
    ended = runner.invoke(app, ["topics", "acls"], env=environment)
    assert ended.exit_code == 0, ended.output
    who = set(re.findall(r"^kafka-acls.sh .*--allow-principal (\S+)", ended.stdout, re.MULTILINE))
    assert who == {f"User:{one}" for one in UserRole if one not in {"lanes", "views"}}
    ended = runner.invoke(app, ["topics", "acls", "--role", "worker", "--json"], env=environment)
    rules = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {
        "role": "worker",
        "principal": "User:worker",
        "host": "*",
        "operation": "Write",
        "permission": "Allow",
        "resource_type": "transactional-id",
        "resource_name": "shop-chain-",
        "pattern_type": "prefixed",
    } in rules
    assert {"shop-lanes", "shop-views"} <= {one["resource_name"] for one in rules}


def test_a_program_s_own_group_is_granted_where_it_is_named() -> None:
    runner = CliRunner()
    told = runner.invoke(
        app,
        ["topics", "acls", "--role", "product", "--principal", "User:shop", "--group", "shop-1"],
        env={"MILLSTREAM_KAFKA": "b:1"},
    )
    assert told.exit_code == 0, told.output
    commands = [one for one in told.stdout.splitlines() if "--group shop-1" in one]
    (command,) = commands
    assert command.endswith("--add --allow-principal User:shop --operation Read --group shop-1")


def test_a_principal_without_its_type_is_refused() -> None:
    told = CliRunner().invoke(app, ["topics", "acls", "--principal", "shop"])
    assert told.exit_code == 2
    assert "User:shop" in told.output
