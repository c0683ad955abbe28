"""The agent of many steps on LangGraph with its saver for PostgreSQL, run by its own environment.

`python -m benchmarks.peers.langgraph_steps DATABASE_URL FOLDER` serves `asked_runs`. A run is a
thread of `create_agent`, with `durability="sync"`: each step's checkpoint is committed before the
next step. One saver on a pool, as its documentation has it; it asks the database for one run at a
time, whatever the pool's size.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import uvloop
from langchain.agents import create_agent
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers.asked_runs import serve
from benchmarks.programs.step_model import StepModel, step_tool

CONNECTIONS = 40
STEPS_MAX = 2_000


async def main(url: str, folder: Path) -> None:
    """Serve until ended by a signal."""
    how = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(
        url, min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs=how
    ) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        agent = create_agent(
            StepModel(folder=folder), [step_tool(folder, "work")], checkpointer=saver
        )

        async def go_on(name: str, given: Any) -> None:
            where: Any = {"configurable": {"thread_id": name}, "recursion_limit": STEPS_MAX}
            await agent.ainvoke(given, where, durability="sync")

        async def run(name: str, text: str) -> None:
            await go_on(name, {"messages": [{"role": "user", "content": text}]})

        async def resume(name: str) -> None:
            await go_on(name, None)

        await serve(run, resume)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2])))
