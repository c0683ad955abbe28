"""A broker that takes connections and answers none holds no command up beyond its limit."""

from __future__ import annotations

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


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a broker that hangs: the kernel takes the connections, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        host, port = server.getsockname()
        yield f"{host}:{port}"


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
    environment = {
        **os.environ,  # noqa: TID251  what a child inherits
        "MILLSTREAM_KAFKA": hanging,
        "MILLSTREAM_DATA_DIR": str(tmp_path),
    }
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
