"""How a peer's program of many steps is asked for runs: lines of JSON over a socket on loopback.

A line `{"text": …, "runs": 40, "in_flight": 16}` is answered by `{"took_s": [40 times]}`: what each
run took. `begin` and `resume` ask for one
run under a name that is not awaited. Nothing but the standard library, since it runs in the peers'
environments.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["serve"]

Run = Callable[[str, str], Awaitable[None]]
"""Runs the agent under a name on a text, to its end."""


async def serve(run: Run, resume: Callable[[str], Awaitable[None]]) -> None:
    """Serve for ever. `resume` goes on with the run of a name that a lost process had begun."""
    begun: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            wanted = json.loads(line)
            match wanted:
                case {"begin": name, "text": text}:
                    begun.add(asyncio.ensure_future(_awaited(run(name, text))))
                    answered: dict[str, Any] = {}
                case {"resume": name}:
                    begun.add(asyncio.ensure_future(_awaited(resume(name))))
                    answered = {}
                case _:
                    answered = await _runs(run, **wanted)
            writer.write(json.dumps(answered).encode() + b"\n")
            await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


async def _awaited(running: Awaitable[None]) -> None:
    await running


async def _runs(run: Run, *, text: str, runs: int, in_flight: int) -> dict[str, Any]:
    names = iter(f"{time.time_ns()}-{number}" for number in range(runs))
    took_s: list[float] = []

    async def in_turn() -> None:
        for name in names:
            began_s = time.perf_counter()
            await run(name, text)
            took_s.append(time.perf_counter() - began_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(in_turn())
    return {"took_s": took_s}
