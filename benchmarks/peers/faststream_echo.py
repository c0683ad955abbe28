"""FastStream's echo, run by its own environment: acknowledged once the answer stands.

`python faststream_echo.py KAFKA REQUESTS RESPONSES WORKERS` answers until SIGTERM. Guarantee: at
least once; a request's offset is committed after its answer was acknowledged. With such acks
FastStream handles one request per partition at a time, whatever number of workers it is given.
"""

from __future__ import annotations

import json
import sys

import uvloop
from faststream import FastStream
from faststream.kafka import KafkaBroker, KafkaMessage, KafkaResponse
from faststream.middlewares import AckPolicy


async def main(kafka: str, requests: str, responses: str, workers: str) -> None:
    """Serve until ended by a signal."""
    broker = KafkaBroker(kafka, enable_idempotence=True, logger=None)

    @broker.subscriber(  # type: ignore[untyped-decorator,unused-ignore]
        requests,
        group_id=requests,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
        max_workers=int(workers),
    )
    @broker.publisher(responses)  # type: ignore[untyped-decorator,unused-ignore]
    async def answer(message: KafkaMessage) -> KafkaResponse:
        return KafkaResponse(message.body, key=message.raw_message.key)

    print(json.dumps({"echo": requests}), flush=True)
    await FastStream(broker, logger=None).run()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
