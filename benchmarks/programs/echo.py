"""The raw side's server: an aiokafka consumer and an aiokafka producer, and nothing between them.

`python -m benchmarks.programs.echo REQUESTS RESPONSES` answers until SIGTERM. A response is
the request's own value; it does not wait for its acknowledgement.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from millstream.streams.broker.clients import connecting
from millstream.streams.settings import load_settings


async def _echo(requests: str, responses: str) -> None:
    settings = load_settings()
    consumer = AIOKafkaConsumer(requests, **connecting(settings), auto_offset_reset="earliest")
    producer = AIOKafkaProducer(**connecting(settings), enable_idempotence=True)
    await consumer.start()
    await producer.start()
    print(json.dumps({"echo": requests}), flush=True)
    try:
        async for record in consumer:
            await producer.send(responses, record.value, record.key, partition=record.partition)
    finally:
        await consumer.stop()
        await producer.stop()


async def _until_told(requests: str, responses: str) -> None:
    echo = asyncio.create_task(_echo(requests, responses))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, echo.cancel)
    await asyncio.wait({echo})
    if not echo.cancelled():
        echo.result()


if __name__ == "__main__":
    asyncio.run(_until_told(*sys.argv[1:]))
