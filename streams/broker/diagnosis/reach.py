"""Whether each broker can be reached, by the names that are configured and by what brokers say.

One name that answers is enough to work, so a wrong one would be noticed when the others are away. A
broker whose listener advertises another host answers there, and is never reached for anything else.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError

from millstream.schemas.errors import ServiceUnavailable
from millstream.streams.broker.clients import not_reached, raw_client
from millstream.streams.broker.recovery import told_of_broker
from millstream.streams.broker.security.live import live_security

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

__all__ = ["Reach", "reach", "require_reach"]

_CONNECT_S = 5.0
_BROKERS_MAX = 32


@dataclass(frozen=True, slots=True)
class Reach:
    """What cannot be reached, a line each: of the configured `names`, and of the `brokers`.

    `is_any`: whether some broker is reached where it says that it is.
    """

    names: tuple[str, ...]
    brokers: tuple[str, ...]
    is_any: bool


async def reach(settings: Settings) -> Reach:
    """Connect to each name and each broker. Raises `ServiceUnavailable` where no name answers."""
    client = raw_client(settings)
    try:
        await client.bootstrap()
        brokers = tuple(client.cluster.brokers())[:_BROKERS_MAX]
        hosts = [(host, port) for host, port, _ in client.hosts]
    except (KafkaError, OSError, TimeoutError) as error:
        raise not_reached(settings, error) from error
    finally:
        await client.close()
    known = {(broker.host, broker.port): broker.nodeId for broker in brokers}
    places = list(dict.fromkeys((*hosts, *known)))
    reasons = await asyncio.gather(*(_why_not(settings, *place) for place in places))
    failed = {place: why for place, why in zip(places, reasons, strict=True) if why is not None}
    return Reach(
        names=tuple(f"{host}:{port}: {failed[host, port]}" for host, port in hosts
                    if (host, port) in failed),
        brokers=tuple(told_of_broker(known[place], *place, why) for place, why in failed.items()
                      if place in known and place not in hosts),
        is_any=any(place not in failed for place in known),
    )  # fmt: skip


async def require_reach(settings: Settings) -> tuple[str, ...]:
    """Give what cannot be reached. Raises `ServiceUnavailable` where nothing can be done so."""
    found = await reach(settings)
    if not found.is_any:
        raise ServiceUnavailable(f"Kafka is not reached: {'; '.join(found.brokers or found.names)}")
    return (*found.names, *found.brokers)


async def _why_not(settings: Settings, host: str, port: int) -> str | None:
    try:
        conn = await live_security(settings).connect(host, port, timeout_s=_CONNECT_S)
    except TimeoutError:
        return f"no answer within {_CONNECT_S:g} s"
    except (OSError, KafkaError) as error:
        return str(error) or type(error).__name__
    conn.close()
    return None
