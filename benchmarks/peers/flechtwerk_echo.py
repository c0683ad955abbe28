"""Flechtwerk's echo, run by its own environment: each answer in a Kafka transaction.

`python flechtwerk_echo.py KAFKA REQUESTS RESPONSES SECONDS` answers until SIGTERM; an answer takes
so many seconds. Guarantee: exactly once; answers and offsets of a batch commit in one transaction
per partition. All that runs at a time is one batch: what a poll gave, up to 500 records, of each
user one after the other.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import uvloop
from flechtwerk import Flechtwerk, IncomingMessage, Message, State, Transformer


async def main(kafka: str, requests: str, responses: str, takes_s: str) -> None:
    """Serve until ended by a signal."""
    wait_s = float(takes_s)

    async def answer(message: IncomingMessage, _: State) -> AsyncIterator[Message | State]:
        if wait_s:
            await asyncio.sleep(wait_s)
        yield Message(key=message.key, topic=responses, value=message.value)

    print(json.dumps({"echo": requests}), flush=True)
    await Flechtwerk.of(
        application_id=requests,
        bootstrap_servers=kafka,
        client_id=f"{requests}-0",
        stage=Transformer.of(input_topics=[requests], transform=answer),
    ).run()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
