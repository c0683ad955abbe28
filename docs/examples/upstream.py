"""An upstream system: publishes each line of standard input, a JSON object, as a request.

    echo '{"user_id": "ada", "input": "Name three planets."}' |
        python docs/examples/upstream.py 127.0.0.1:9092 millstream.requests

It knows nothing of Millstream but the topic. What it prints is each request's id, which is the
record's place, since it gave none. For a Kafka with users or TLS, the environment says
KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD,
KAFKA_SSL_CA_LOCATION, KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION.
"""

import asyncio
import json
import os
import ssl
import sys
from typing import Any

from aiokafka import AIOKafkaProducer


def secured() -> dict[str, Any]:
    """Give what a producer needs to know of users and TLS, by the environment."""
    given = {
        name.removeprefix("KAFKA_"): value
        for name, value in os.environ.items()  # noqa: TID251  it is a program of its own
        if name.startswith("KAFKA_")
    }
    protocol = given.get("SECURITY_PROTOCOL", "PLAINTEXT")
    found: dict[str, Any] = {"security_protocol": protocol}
    if protocol in {"SSL", "SASL_SSL"}:
        context = ssl.create_default_context(cafile=given.get("SSL_CA_LOCATION"))
        if "SSL_CERTIFICATE_LOCATION" in given:
            context.load_cert_chain(
                given["SSL_CERTIFICATE_LOCATION"], given.get("SSL_KEY_LOCATION")
            )
        found["ssl_context"] = context
    if protocol in {"SASL_PLAINTEXT", "SASL_SSL"}:
        found["sasl_mechanism"] = given["SASL_MECHANISM"]
        found["sasl_plain_username"] = given["SASL_USERNAME"]
        found["sasl_plain_password"] = given["SASL_PASSWORD"]
    return found


async def main(bootstrap: str, topic: str) -> None:
    """Publish, and print where each record stands."""
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, **secured()
    ) as producer:
        for line in sys.stdin:
            # Keyed by user, a user's requests keep their order.
            user = json.loads(line)["user_id"]
            record = await producer.send_and_wait(topic, line.encode(), key=user.encode())
            print(f"{record.topic}-{record.partition}-{record.offset}", flush=True)


asyncio.run(main(*sys.argv[1:]))
