"""The dev launcher as a child of the test run: it ends when the run ends, however that happens."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]

# A clean checkout fetches Kafka's jars first (50 MB).
_READY_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 30.0
_LOG_TAIL_CHARS = 4000


@contextmanager
def launched(data: Path, environment: Mapping[str, str], *options: str) -> Iterator[dict[str, Any]]:
    """Run `python -m millstream.infra up` on `data`; give what it prints when its services answer.

    `options` are further ones of its command line. `environment` is added to the run's own;
    services that it names are used and not started.
    The launcher watches its standard input: at its end it stops all that it started.
    """
    data.mkdir(parents=True, exist_ok=True)
    log = data / "launcher.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "millstream.infra",
                "up",
                "--until-eof",
                "--data",
                str(data),
                "--json",
                *options,
            ],
            cwd=PROJECT,
            env={**os.environ, **environment},  # noqa: TID251  what a child inherits
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        yield _ready(process, log)
    finally:
        _stop(process)


def _ready(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """Wait for the launcher's one line; raises `RuntimeError` with the end of its log."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _READY_TIMEOUT_S)
    line = process.stdout.readline() if readable else b""
    if not line:
        told = log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARS:]
        message = f"the dev launcher is not ready after {_READY_TIMEOUT_S:g} s or ended:\n{told}"
        raise RuntimeError(message)
    ready: dict[str, Any] = json.loads(line)
    return ready


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the launcher's input, and wait for its end; SIGKILL if it does not come."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(_STOP_TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
