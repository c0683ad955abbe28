from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.agents.mcp import tools as mcp_tools
from millstream.agents.mcp.failures import McpFailed
from millstream.agents.mcp.server import McpServer
from millstream.agents.mcp.stdio import running_program
from millstream.agents.mcp.tools import McpTools
from millstream.agents.tools import ToolRegistry
from millstream.agents.tools.outcomes import CallNotMade, OutcomeUnknown
from tests.harness.mcp import BAD_PROGRAM, OFFICIAL, official_program, open_tools
from tests.support.waiting import eventually


def bad_program(how: str, **fields: object) -> McpServer:
    given = {"name": "bad", "command": sys.executable, "args": (BAD_PROGRAM, how), "timeout_s": 5}
    return McpServer.model_validate(given | fields)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("how", ["prints", "no utf-8"])
async def test_what_a_program_prints_beside_its_messages_is_passed_over(how: str) -> None:
    async with open_tools(bad_program(how)) as opened:
        assert (await opened.call("bad_do", badly=True)).content == "done"


async def test_a_line_without_an_end_fails_its_call_and_the_next_has_a_new_program() -> None:
    async with open_tools(bad_program("endless line", answer_bytes_max=100_000)) as opened:
        with pytest.raises(McpFailed, match="broke off") as raised:
            await opened.call("bad_do", badly=True)
        assert isinstance(raised.value, OutcomeUnknown)
        assert (await opened.call("bad_do")).content == "done"


async def test_a_program_that_ends_fails_its_call_and_is_started_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with open_tools(official_program(log)) as opened:
        with pytest.raises(McpFailed, match="'orders' broke off") as raised:
            await opened.call("orders_exits")
        assert isinstance(raised.value, OutcomeUnknown)
        answer = await opened.call("orders_lookup", order="7")
        assert answer.content == "order 7 is on its way"
    # The call that ended it was not made again.
    assert log.read_text() == "exits\nlookup 7\n"


async def test_a_program_gets_what_it_is_given_and_none_of_the_workers_secrets(
    tmp_path: Path,
) -> None:
    key = tmp_path / "key"
    key.write_text("k")
    key.chmod(0o600)
    server = official_program(tmp_path / "log", env={"A": "b"}, env_files={"KEY": key})
    worker = {"PATH": "/usr/bin:/bin", "OPENAI_API_KEY": "secret", "MILLSTREAM_KAFKA": "here"}
    async with open_tools(server, **worker) as opened:
        _, *names = str((await opened.call("orders_environment")).content).split()
        assert {"A", "KEY", "PATH"} <= set(names)
        assert not {"OPENAI_API_KEY", "MILLSTREAM_KAFKA"} & set(names)


async def test_a_changed_credential_is_given_to_a_new_program(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k")
    key.chmod(0o600)
    async with open_tools(official_program(tmp_path / "log", env_files={"KEY": key})) as opened:
        first = str((await opened.call("orders_environment")).content).split()[0]
        assert str((await opened.call("orders_environment")).content).split()[0] == first
        key.write_text("another")
        assert str((await opened.call("orders_environment")).content).split()[0] != first


async def test_a_program_is_gone_when_its_tools_are_closed(tmp_path: Path) -> None:
    async with open_tools(official_program(tmp_path / "log")) as opened:
        pid = int(str((await opened.call("orders_environment")).content).split()[0])
        assert is_alive(pid)
    assert not is_alive(pid)


# Tells its id, then that its input has ended, and goes on.
DEAF = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[1])
(folder / "new").write_text(str(os.getpid()))
(folder / "new").rename(folder / "pid")
sys.stdin.read()
(folder / "left").touch()
time.sleep(60)
"""


def deaf_program(folder: Path) -> McpServer:
    given = {"name": "deaf", "command": sys.executable, "args": ("-c", DEAF, str(folder))}
    return McpServer.model_validate({**given, "connect_timeout_s": 60})


async def test_a_program_is_gone_though_its_end_is_waited_for_no_longer(tmp_path: Path) -> None:
    async def use() -> None:
        async with running_program(deaf_program(tmp_path), {"PATH": "/usr/bin:/bin"}):
            await eventually((tmp_path / "pid").exists)

    using = asyncio.create_task(use())
    await eventually((tmp_path / "left").exists)
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert not is_alive(int((tmp_path / "pid").read_text()))
    gc.collect()  # what is left of it, as its transport, is told here


async def test_a_program_is_gone_when_its_tools_are_not_closed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = McpTools([deaf_program(tmp_path)], environment={"PATH": "/usr/bin:/bin"})
    opening = asyncio.create_task(tools.open(ToolRegistry()))
    await eventually((tmp_path / "pid").exists)
    opening.cancel()
    with monkeypatch.context() as patched:
        patched.setattr(mcp_tools, "CLOSED_WITHIN_S", 1.0)
        # Debian's Python 3.11.2 tells whoever was cancelled before of that, and not of the time.
        with pytest.raises((TimeoutError, asyncio.CancelledError)):
            await opening
    assert tools._thread is not None
    await asyncio.to_thread(tools._thread.join)
    assert not is_alive(int((tmp_path / "pid").read_text()))
    del opening, tools
    gc.collect()


async def test_a_program_dies_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path.cwd())!r})
from millstream.agents.mcp.server import McpServer
from millstream.agents.mcp.tools import McpTools
from millstream.agents.tools import ToolRegistry

async def main():
    server = McpServer(name="orders", command=sys.executable,
                       args=({OFFICIAL!r}, "stdio", {str(tmp_path / "log")!r}))
    tools, registry = McpTools([server], environment={{}}), ToolRegistry()
    await tools.open(registry)
    tool, = registry.pick(["orders_environment"])
    call = dict(name=tool.name, args={{}}, id="1", type="tool_call")
    print("its id:", (await tool.ainvoke(call)).content, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    worker = subprocess.Popen(  # noqa: ASYNC220  its first line is waited for
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert worker.stdout is not None
        line = next(one for one in worker.stdout if one.startswith(b"its id:"))
        pid = int(line.split()[2])
        assert is_alive(pid)
    finally:
        worker.kill()
        worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()
    await eventually(lambda: not is_alive(pid))


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (McpServer(name="bad", command="no-such-program"), "no program 'no-such-program'"),
        (bad_program("no greeting"), "ended as it was greeted"),
        (
            McpServer(name="bad", command="sleep", args=("60",), connect_timeout_s=0.3),
            "did not answer within 0.3 s",
        ),
    ],
)
async def test_a_program_that_is_none_leaves_its_tools_unavailable(
    server: McpServer, words: str
) -> None:
    async with open_tools(server, PATH="/usr/bin:/bin") as opened:
        await eventually(lambda: words in (opened.tools.status()[0].problem or ""))
        with pytest.raises(McpFailed, match=words) as raised:
            await opened.call("bad.do")
        assert isinstance(raised.value, CallNotMade)
