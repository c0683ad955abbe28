"""`millstream topics acls`: rights by role, printed for people and programs."""

from __future__ import annotations

import json
import re

from typer.testing import CliRunner

from millstream.gateway.cli import app
from millstream.gateway.commands.topics import AclRole


def test_the_command_prints_each_role_for_its_own_user() -> None:
    runner = CliRunner()
    environment = {"MILLSTREAM_KAFKA": "b:1", "MILLSTREAM_NAMESPACE": "shop"}
    ended = runner.invoke(app, ["topics", "acls"], env=environment)
    assert ended.exit_code == 0, ended.output
    who = set(re.findall(r"^kafka-acls.sh .*--allow-principal (\S+)", ended.stdout, re.MULTILINE))
    assert who == {f"User:{one}" for one in AclRole if one not in {"lanes", "views"}}
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
