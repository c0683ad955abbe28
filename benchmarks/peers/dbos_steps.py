"""The agent of many steps on DBOS, run by its own environment.

`python -m benchmarks.peers.dbos_steps DATABASE_URL FOLDER` serves `asked_runs`. A run is a
workflow, each call of its model and of its tool a step of it, whose outcome DBOS commits to
PostgreSQL before the next. A workflow that a lost process had begun goes on by
itself as the next one is launched.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvloop
from dbos import DBOS, SetWorkflowID

from benchmarks.peers.asked_runs import serve
from benchmarks.programs.step_agent import Asked, Watch, arguments, asked, part, words

CONNECTIONS = 40

_TEXT = words()
_FOLDER = Path(sys.argv[2])


@DBOS.step()  # type: ignore[untyped-decorator,unused-ignore]
async def model(wanted: Asked, made: int) -> dict[str, Any]:
    """Call the tool, or be done: a message as OpenAI's dialect has it."""
    if wanted.held >= 0:
        Watch(_FOLDER).called("model", made)
    usage = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
    if made >= wanted.steps:
        return {"role": "assistant", "content": "done", "usage": usage}
    function = {"name": "work", "arguments": arguments(wanted, made)}
    calls = [{"id": f"call-{made}", "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls, "usage": usage}


@DBOS.step()  # type: ignore[untyped-decorator,unused-ignore]
async def tool(step: int, size: int, held: int) -> str:
    """Do a step."""
    await Watch(_FOLDER).tool_called(step, held)
    return part(_TEXT, step, size)


@DBOS.workflow()  # type: ignore[untyped-decorator,unused-ignore]
async def agent(text: str) -> str:
    """Call the model and the tool in turns until the model is done."""
    wanted = asked(text)
    messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
    while True:
        said = await model(wanted, len(messages) // 2)
        messages.append(said)
        if "tool_calls" not in said:
            return str(said["content"])
        for call in said["tool_calls"]:
            done = await tool(**call["function"]["arguments"])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": done})


async def run(name: str, text: str) -> None:
    """Run the agent as a workflow of that id."""
    with SetWorkflowID(name):
        await agent(text)


async def resume(name: str) -> None:
    """Do nothing: DBOS goes on with what was lost as it is launched."""
    del name


async def main(url: str) -> None:
    """Serve until ended by a signal."""
    DBOS(
        config={
            "name": "steps",
            "system_database_url": url,
            "sys_db_pool_size": CONNECTIONS,
            "application_version": "1",
            "log_level": "WARNING",
            "run_admin_server": False,
        }
    )
    await asyncio.to_thread(DBOS.launch)
    await serve(run, resume)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
