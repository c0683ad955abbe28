"""llama.cpp's server as a process of its own: `python -m tests.providers.llama.server`.

It prints its address as a line of JSON once it answers on 127.0.0.1, and ends when its standard
input does. It is the one inside `xllamacpp`, with the weights of the local model, and with a chat
template that knows tools: that of the weights knows none, and the server passes over the tools that
a request offers. The template shows a call of each tool, and leaves out the caller's own system
prompt: so small a model calls a tool only if it has little else to read.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["LlamaServer", "Spent", "llama_server"]

CONTEXT_TOKENS = 512
_TEMPLATE = Path(__file__).parent / "chat_template.jinja"
_ROOT = Path(__file__).parents[3]
_READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens that the server counted since it began, of all calls."""

    read: int
    written: int

    def since(self, before: Spent) -> Spent:
        """Give what came on top."""
        return Spent(self.read - before.read, self.written - before.written)


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """A server that answers. `url` is what OpenAI's clients call the base URL."""

    process: Process
    address: str

    @property
    def url(self) -> str:
        """Its base URL for OpenAI's clients."""
        return f"{self.address}/v1"

    async def is_busy(self) -> bool:
        """Tell whether it is at work on an answer."""
        slots = json.loads(await self._get("/slots"))
        return any(slot["is_processing"] for slot in slots)

    async def spent(self) -> Spent:
        """Give the tokens that it counted itself."""
        figures: dict[str, int] = {}
        for line in (await self._get("/metrics")).splitlines():
            name, _, value = line.partition(" ")
            if name.startswith("llamacpp:") and name.endswith("_total"):
                figures[name] = int(float(value))
        read = figures["llamacpp:prompt_tokens_total"]
        read += figures["llamacpp:prompt_tokens_cached_total"]
        return Spent(read, figures["llamacpp:tokens_predicted_total"])

    async def _get(self, path: str) -> str:
        async with aiohttp.ClientSession() as http, http.get(self.address + path) as page:
            return await page.text()


@asynccontextmanager
async def llama_server() -> AsyncIterator[LlamaServer]:
    """Start a server; it is ended with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.providers.llama.server",
        cwd=_ROOT, stdin=PIPE, stdout=PIPE, stderr=DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_READY_TIMEOUT_S):
            line = await process.stdout.readline()
        yield LlamaServer(process, json.loads(line)["address"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _params() -> Any:
    import xllamacpp  # noqa: PLC0415  takes a while, and only the server's own process needs it

    from millstream.agents.models.local.weights import find_weights  # noqa: PLC0415

    params = xllamacpp.CommonParams()
    params.model.path = str(find_weights())
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.chat_template = _TEMPLATE.read_text(encoding="utf-8").rstrip("\n")
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.ui = False
    params.verbosity = -1
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.n_parallel = 1
    params.n_ctx = CONTEXT_TOKENS
    params.n_batch = params.n_ubatch = 128
    params.n_gpu_layers = 0
    params.fit_params = False
    params.warmup = False
    params.cache_ram_mib = 0
    return params


def main() -> None:
    """Serve until standard input ends."""
    import xllamacpp  # noqa: PLC0415

    server = xllamacpp.Server(_params())
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
