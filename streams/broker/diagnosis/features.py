"""Whether brokers take transactions: some services that speak Kafka's protocol do not, or can."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.clients import not_reached, raw_client
from millstream.streams.broker.security.live import live_security

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

__all__ = ["lacking", "require_transactions"]

_REQUESTS: Mapping[int, str] = {22: "InitProducerId", 24: "AddPartitionsToTxn", 26: "EndTxn"}
_CONNECT_S = 5.0


def lacking(versions: Mapping[int, tuple[int, int]]) -> tuple[str, ...]:
    """Give the requests of transactions that a broker does not know.

    `versions` are the lowest and highest that it knows of each request, by the request's number.
    """
    return tuple(name for number, name in _REQUESTS.items() if number not in versions)


async def require_transactions(settings: Settings) -> None:
    """Raise `Misconfigured` where a broker knows no transactions.

    Brokers that cannot be reached are passed over. Raises `ServiceUnavailable` where no name
    answers.
    """
    client = raw_client(settings)
    try:
        await client.bootstrap()
        brokers = tuple(client.cluster.brokers())
    except (KafkaError, OSError, TimeoutError) as error:
        raise not_reached(settings, error) from error
    finally:
        await client.close()
    asked = (_lacking_at(settings, broker.host, broker.port) for broker in brokers)
    for broker, names in zip(brokers, await asyncio.gather(*asked), strict=True):
        if names:
            message = (
                f"the broker at {broker.host}:{broker.port} takes no transactions (it knows no "
                f"{', '.join(names)}), and all that lanes decide is written in them: turn them on "
                "there, or take a service or a tier that has them"
            )
            raise Misconfigured(message)


async def _lacking_at(settings: Settings, host: str, port: int) -> tuple[str, ...]:
    try:
        conn = await live_security(settings).connect(host, port, timeout_s=_CONNECT_S)
    except (OSError, KafkaError, TimeoutError):
        return ()
    # What it answered to ApiVersions as it was connected to.
    versions = conn._versions  # noqa: SLF001  aiokafka tells it nowhere else
    conn.close()
    return lacking(versions) if versions else ()
