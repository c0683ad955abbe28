"""`millstream up --secure`: each command is a user, who has the rights of its role alone."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest

from tests.e2e.programs import Ended, ended, interrupt, line_with, millstream, run
from tests.services.users import user_of_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a platform that starts its own services."""
    return {
        "MILLSTREAM_NAMESPACE": f"t-{secrets.token_hex(6)}",
        "MILLSTREAM_DATA_DIR": str(tmp_path / "the data"),
        "MILLSTREAM_DEFAULT_MODEL": "scripted",
        "MILLSTREAM_SCRIPTED_MODEL": "on",
    }


def data_of(environment: dict[str, str]) -> Path:
    return Path(environment["MILLSTREAM_DATA_DIR"])


async def run_as(user: str, environment: dict[str, str], *words: str) -> Ended:
    file = data_of(environment) / "secure" / user / "client.properties"
    return await run(environment | {"MILLSTREAM_KAFKA_CONFIG": str(file)}, *words)


async def test_each_command_does_its_work_as_its_user_and_no_other(
    environment: dict[str, str],
) -> None:
    ask = ("submit", "say: hello", "--user", "ada", "--session", "s")
    async with millstream(environment, "up", "--secure") as up:
        assert up.stderr is not None
        for user in ("client", "auditor", "operator", "worker"):
            told = await line_with(up.stderr, f"{user}/client.properties", 120)
            assert "  MILLSTREAM_KAFKA_CONFIG='" in told
        for words, expected in (
            (ask, "hello"),
            (("history", "--user", "ada"), "completed"),
            (("sessions", "list", "--user", "ada"), "s"),
            (("runs", "list"), ""),
        ):
            told_ = await run_as(user_of_command(*words), environment, *words)
            assert (told_.code, expected in told_.out) == (0, True), told_.err
        refused = await run_as("auditor", environment, *ask)
        assert refused.code == 6
        assert "AuthorizationFailed" in refused.err
        nobody = await run(environment, *ask)
        assert nobody.code == 6
        assert "set MILLSTREAM_KAFKA_CONFIG=" in nobody.err
        here = json.loads((data_of(environment) / "endpoints.json").read_text())["kafka"]
        rights = await run(environment, "topics", "acls", "--role", "product")
        assert f"--bootstrap-server {here} " in rights.out
        assert (await interrupt(up)).code == 0


async def test_the_demo_runs_with_users_and_rights(environment: dict[str, str]) -> None:
    async with millstream(environment, "demo", "--secure") as process:
        told = await ended(process, 200)
    assert told.code == 0, told.err
    assert "completed, " in told.out


async def test_users_are_for_what_is_started_here(environment: dict[str, str]) -> None:
    named = environment | {"MILLSTREAM_KAFKA": "127.0.0.1:1"}
    for words in (("up",), ("demo",)):
        told = await run(named, *words, "--secure")
        assert told.code == 6, told.err
        assert "leave --secure out" in told.err
