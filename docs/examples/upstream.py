"""An upstream system: publishes each line of standard input, a JSON object, as a request.

    echo '{"user_id": "ada", "input": "Name three planets."}' |
        python docs/examples/upstream.py 127.0.0.1:9092 millstream.requests

It knows nothing of Millstream but the topic. What it prints is each request's id, which is the
record's place, since it gave none.
"""

import asyncio
import json
import sys

from aiokafka import AIOKafkaProducer


async def main(bootstrap: str, topic: str) -> None:
    """Publish, and print where each record stands."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        for line in sys.stdin:
            # Keyed by user, a user's requests keep their order.
            user = json.loads(line)["user_id"]
            record = await producer.send_and_wait(topic, line.encode(), key=user.encode())
            print(f"{record.topic}-{record.partition}-{record.offset}", flush=True)


asyncio.run(main(*sys.argv[1:]))
