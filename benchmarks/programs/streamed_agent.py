"""The agent that a worker runs, streamed in a process of its own with no bus: what its tokens cost.

`python -m benchmarks.programs.streamed_agent RUNS IN_FLIGHT TEXT` calls LangChain's agent of the
template `chat_agent` so many times, so many at once, and prints `{"tokens_per_s": …, "cpu_us": …}`:
the rate, and the CPU time of a token in microseconds. The model is `openai:streaming`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop
from langchain.agents import create_agent

from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.resolve import keep_traces_local, resolve_model
from millstream.agents.templates.template import BUILT_IN_TEMPLATES

TOKENS_MAX = 512


async def main(runs: int, in_flight: int, text: str) -> None:
    """Warm up, then measure."""
    keep_traces_local()
    http = ProviderHttp()
    model = resolve_model("openai:streaming", http=http, max_tokens=TOKENS_MAX)
    agent = create_agent(model, [], system_prompt=BUILT_IN_TEMPLATES[0].system_prompt)
    await _load(agent, in_flight, in_flight, text)
    cpu_s, began_s = time.process_time(), time.perf_counter()
    tokens = await _load(agent, runs, in_flight, text)
    took_s, used_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    await http.close()
    print(json.dumps({"tokens_per_s": tokens / took_s, "cpu_us": used_s * 1e6 / tokens}))


async def _load(agent: Any, runs: int, in_flight: int, text: str) -> int:
    numbers = iter(range(runs))
    tokens = 0

    async def call_in_turn() -> None:
        nonlocal tokens
        for _ in numbers:
            asked = {"messages": [("user", text)]}
            async for piece, _meta in agent.astream(asked, stream_mode="messages"):
                tokens += bool(piece.text)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(call_in_turn())
    return tokens


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
