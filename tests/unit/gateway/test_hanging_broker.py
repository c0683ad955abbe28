"""A broker that takes connections and answers none holds no command up beyond its limit."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ENDS_WITHIN_S = 8.0
"""The start of Python, the limit of 0.5 s, and 2 s to close; other tests run beside it."""

CONNECTED_WITHIN_S = 10.0
"""As docs/how-to/commands.md has it."""

ALL_START_WITHIN_S = 30.0
"""So many commands at once, and other tests beside them."""

UNBOUNDED = (
    "topics --json",
    "history --user ada",
    "tail results",
    "templates list",
    "dead-letters list",
    "dead-letters redrive --all --code newer_schema",
    "drain worker-1",
    "chat --user ada",
    "doctor",
)
"""Commands without a `--timeout`."""


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a broker that hangs: the kernel takes the connections, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        host, port = server.getsockname()
        yield f"{host}:{port}"


def environment_of(kafka: str, data: Path) -> dict[str, str]:
    return {
        **os.environ,  # noqa: TID251  what a child inherits
        "MILLSTREAM_KAFKA": kafka,
        "MILLSTREAM_REDIS_URL": f"redis://{kafka}",
        "MILLSTREAM_DATA_DIR": str(data),
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("submit", "Hi", "--request-id", "r"), "has not taken request r within 0.5 s"),
        (("cancel", "--request", "r"), "Kafka has not taken the cancel within 0.5 s"),
    ],
)
def test_a_command_ends_in_time_and_says_how_far_it_came(
    hanging: str, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    environment = environment_of(hanging, tmp_path)
    began = time.monotonic()
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "millstream.gateway", *arguments),
            *("--user", "ada", "--timeout", "0.5"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (5, ""), ended.stderr
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - began < ENDS_WITHIN_S


@pytest.mark.slow
async def test_every_command_without_a_limit_says_in_time_that_no_broker_answers(
    hanging: str, tmp_path: Path
) -> None:
    environment = environment_of(hanging, tmp_path)
    # More than one name is no reason to wait for longer.
    environment["MILLSTREAM_KAFKA"] = f"{hanging},{hanging},{hanging}"

    async def ended(line: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "millstream.gateway", *line.split()),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async with asyncio.timeout(CONNECTED_WITHIN_S + ALL_START_WITHIN_S):
        told = dict(zip(UNBOUNDED, await asyncio.gather(*map(ended, UNBOUNDED)), strict=True))
    code, out, _ = told.pop("doctor")
    assert code == 1
    assert "no answer within 5 s" in out
    for line, (code, out, err) in told.items():
        assert (line, code, out, err.count("\n")) == (line, 6, "", 1)
        assert err.startswith("error: ")
        assert "no answer within 5 s" in err
