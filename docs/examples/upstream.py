"""An upstream system: publishes each line of standard input, a JSON object, as a request.

    echo '{"user_id": "ada", "input": "Name three planets."}' |
        python docs/examples/upstream.py 127.0.0.1:9092 millstream.requests

It knows nothing of Millstream but the topic. What it prints is each request's id, which is the
record's place, since it gave none.
"""

import asyncio
import json
import os
import ssl
import sys
from typing import Any

from aiokafka import AIOKafkaProducer

NAMES = ("SECURITY_PROTOCOL", "SASL_MECHANISM", "SASL_USERNAME", "SASL_PASSWORD", "SSL_CA_LOCATION")


def security() -> dict[str, Any]:
    """Give what TLS and a user need, from variables that are named as Kafka's properties."""
    given = {name: os.environ.get(f"KAFKA_{name}") for name in NAMES}  # noqa: TID251  it is a program by itself
    protocol = given["SECURITY_PROTOCOL"] or "PLAINTEXT"
    found: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        found["ssl_context"] = ssl.create_default_context(cafile=given["SSL_CA_LOCATION"])
    if protocol.startswith("SASL"):
        found["sasl_mechanism"] = given["SASL_MECHANISM"]
        found["sasl_plain_username"] = given["SASL_USERNAME"]
        found["sasl_plain_password"] = given["SASL_PASSWORD"]
    return found


async def main(bootstrap: str, topic: str) -> None:
    """Publish, and print where each record stands."""
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, **security()
    ) as producer:
        for line in sys.stdin:
            # Keyed by user, a user's requests keep their order.
            user = json.loads(line)["user_id"]
            record = await producer.send_and_wait(topic, line.encode(), key=user.encode())
            print(f"{record.topic}-{record.partition}-{record.offset}", flush=True)


asyncio.run(main(*sys.argv[1:]))
