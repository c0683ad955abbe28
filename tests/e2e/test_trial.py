"""A trial of every command: exit code, both outputs, narrow terminals, a closed pipe."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.programs import PROJECT, Ended, Up, millstream, run

pytestmark = pytest.mark.slow

_ENDS_WITHIN_S = 90.0
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass(frozen=True, slots=True)
class Trial:
    """A command line, its exit code, and what it writes where."""

    line: tuple[str, ...]
    code: int = 0
    out: str = ""
    """A pattern that standard output holds; "" where it is empty."""
    err: str = ""
    typed: str = ""

    @property
    def is_json(self) -> bool:
        """Whether standard output is JSON Lines."""
        return "--json" in self.line


ADA = ("--user", "ada")
NOBODY = (*ADA, "--request", "never-made")
TRIALS = (
    Trial(("--help",), out="Exit codes: 0 done"),
    Trial(("--version",), out=r"^millstream \d"),
    Trial(("submit", "say: 10\u00a0000 €", *ADA), out="^10\u00a0000 €$", err="^request .*compl"),
    Trial(("submit", "say: hi", *ADA, "--json"), out='"status": ?"completed"', err="^request "),
    Trial(("submit", "-", *ADA), out="^hi$", err="completed", typed="say: hi\n"),
    Trial(("submit", "-", *ADA), code=2, err="standard input is empty"),
    Trial(("submit", "hi", "--user", "mallory"), code=3, err="forbidden"),
    Trial(("submit", "fail: no", *ADA), code=4, err="failed after"),
    Trial(("submit", "hi", *ADA, "--timeout", "0.1"), code=5, err="within 0.1 s"),
    Trial(("cancel", *NOBODY), code=8, err="no such request|had ended before"),
    Trial(("cancel", *NOBODY, "--json"), code=8, out='"had_ended"|"unknown"'),
    Trial(("pause", *ADA, "--request", "none", "--json"), code=8, out='"unknown"'),
    Trial(("resume", *ADA, "--request", "other"), code=8, err="was not paused"),
    Trial(("drain", "nobody"), code=8, err="no partition is owned by worker nobody"),
    Trial(("history", *ADA), out="results-.*completed"),
    Trial(("history", *ADA, "--json"), out='"event"'),
    Trial(("history", "--since", "1h", "--until", "2h"), code=2, err="not after"),
    Trial(("topics",), out="dead-letters .*as here"),
    Trial(("topics", "--json"), out='"dead-letters"'),
    Trial(("doctor",), out="✓ kafka"),
    Trial(("doctor", "--json"), out='"kafka"'),
    Trial(("dead-letters", "list"), err="there are no such dead letters"),
    Trial(("runs", "list"), err="no run is open"),
    Trial(("runs", "show", "r", "--user", "ada"), code=8, err="has no open request r"),
    Trial(("runs", "list", "--state", "stuck"), code=2, err="'stuck' is no state of a run"),
    Trial(("dead-letters", "redrive", "--all", "--code", "no"), code=2, err="no record is dead"),
    Trial(("templates", "list"), err="no template was applied"),
    Trial(("sessions", "list", "--user", "nobody"), err="user nobody has no sessions"),
    Trial(
        ("sessions", "create", *ADA, "--ttl", "60s"),
        out="^[0-9A-Z]{26}$",
        err="it lives 1m without being used: it expires 20.* UTC if it is not used",
    ),
    Trial(("sessions", "create", *ADA, "--ttl", "60"), code=2, err="has no unit"),
    Trial(("sessions", "create", *ADA, "--json"), out='"state": "open"'),
    # Under its id it is carried out once, however often it is given.
    Trial(
        ("sessions", "create", *ADA, "--command-id", "mine", "--json"), out='"command_id": "mine"'
    ),
    Trial(("sessions", "rebuild"), err="the view has the sessions of"),
    Trial(("sessions", "show", "never", *ADA), code=8, err="has no session 'never'"),
    Trial(("sessions", "messages", "never", *ADA), code=8, err="has no session 'never'"),
    Trial(("sessions", "checkpoints", "never", *ADA), code=8, err="has no session 'never'"),
    Trial(("sessions", "touch", "never", *ADA), code=8, err="has no session 'never'"),
    Trial(("sessions", "reopen", "never", *ADA), code=8, err="has no session 'never'"),
    Trial(
        ("sessions", "update", "never", *ADA, "--ttl", "60s"), code=8, err="has no session 'never'"
    ),
    Trial(("sessions", "expire", "never", *ADA), code=8, err="has no session 'never'"),
    Trial(("sessions", "name", "never", "1", "x", *ADA), code=8, err="has no session 'never'"),
    Trial(("sessions", "restore", "never", *ADA), code=2, err="a turn or --name"),
    Trial(("sessions", "close", "--all", *ADA, "--yes"), err=r"\d+ sessions: closed"),
    Trial(("sessions", "delete", "--all", *ADA, "--yes", "--json"), out='"sessions": '),
    Trial(("sessions", "stats", *ADA), out=r"^open +\d"),
    Trial(("sessions", "stats", "--json"), out='"open": '),
    Trial(("chat", *ADA), out="^hi$", err="completed", typed="say: hi\n"),
    Trial(
        ("chat", *ADA, "--json"),
        out='"token".*"status": ?"completed"',
        err="^chat_agent answers ada",
        typed="say: hi\n/new\n",
    ),
    Trial(("new", "9-lives", "--json"), code=2, err="cannot be the name of a package"),
    Trial(("worker", "--check"), out="{"),
    Trial(("nothing",), code=2, err="No such command"),
)


@pytest.mark.parametrize("trial", TRIALS, ids=lambda one: " ".join(one.line))
async def test_every_command_ends_and_writes_as_it_says(up: Up, trial: Trial) -> None:
    for columns in ("40", "80"):
        environment = up.environment | {"COLUMNS": columns, "NO_COLOR": "1"}
        told = await run(environment, *trial.line, typed=trial.typed)
        _holds(trial, told)
        assert not _ESCAPE.search(told.out + told.err)
        if not trial.typed and trial.line[:2] != ("submit", "-"):
            shown = await _in_terminal(up.environment, trial.line, int(columns))
            assert shown.code == trial.code, shown.out
            assert "Traceback" not in shown.out
            assert re.search(trial.out, shown.out.replace("\r", ""), re.MULTILINE)
    closed = await _to_a_closed_pipe(up.environment, trial)
    # Whoever reads no more is no error; a command that wrote nothing ends as it would.
    assert closed.code in {0, trial.code}, closed.err
    assert "Traceback" not in closed.err
    assert "BrokenPipe" not in closed.err


async def test_tail_into_head_ends_without_a_word(up: Up) -> None:
    async with millstream(up.environment, "tail", "results", "--from", "beginning") as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        for number in range(2):
            await run(up.environment, "submit", f"say: {number}", *ADA)
        await tail.stdout.readline()
        tail._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        await run(up.environment, "submit", "say: more", *ADA)
        async with asyncio.timeout(_ENDS_WITHIN_S):
            err = await tail.stderr.read()
            assert (await tail.wait(), err) == (0, b"")


async def test_up_with_a_kafka_that_does_not_answer_exits_6(tmp_path: Path) -> None:
    environment = {
        "MILLSTREAM_KAFKA": "127.0.0.1:1",
        "MILLSTREAM_REDIS_URL": "redis://127.0.0.1:1",
        "MILLSTREAM_DATA_DIR": str(tmp_path),
    }
    told = await run(environment, "up")
    assert (told.code, told.out) == (6, "")
    assert "MILLSTREAM_KAFKA=127.0.0.1:1 did not answer" in told.err
    assert "Traceback" not in told.err


def _holds(trial: Trial, told: Ended) -> None:
    assert told.code == trial.code, told.err
    for pattern, text in ((trial.out, told.out), (trial.err, told.err)):
        assert re.search(pattern, text, re.MULTILINE | re.DOTALL), (told.out, told.err)
        assert "Traceback" not in text
    if not trial.out:
        assert told.out == ""
    if trial.is_json:
        assert all(isinstance(json.loads(line), dict) for line in told.out.splitlines())


async def _in_terminal(environment: dict[str, str], line: tuple[str, ...], columns: int) -> Ended:
    """Run a command in a terminal of so many columns; both outputs come as one."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "millstream.gateway", *line),
            cwd=PROJECT,
            env={**os.environ, **environment, "TERM": "xterm"},  # noqa: TID251  what a child inherits
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
    finally:
        os.close(its)
    shown = await asyncio.to_thread(_read_terminal, ours)
    async with asyncio.timeout(_ENDS_WITHIN_S):
        code = await process.wait()
    return Ended(code, _ESCAPE.sub("", shown), "")


def _read_terminal(ours: int) -> str:
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        while True:
            try:
                read = terminal.read(65536)
            except OSError:  # its other end is closed
                break
            if not read:
                break
            shown += read
    return shown.decode("utf-8", errors="replace")


async def _to_a_closed_pipe(environment: dict[str, str], trial: Trial) -> Ended:
    read, write = os.pipe()
    os.close(read)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "millstream.gateway", *trial.line),
            cwd=PROJECT,
            env={**os.environ, **environment},  # noqa: TID251  what a child inherits
            stdin=asyncio.subprocess.PIPE,
            stdout=write,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    finally:
        os.close(write)
    async with asyncio.timeout(_ENDS_WITHIN_S):
        _, err = await process.communicate(trial.typed.encode())
    return Ended(process.returncode, "", err.decode())
