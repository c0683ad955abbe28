"""The live members of a consumer group of lanes, as they described themselves when they joined."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError, for_code

from millstream.streams.broker.clients import admin_client, not_reached
from millstream.streams.consumer.capabilities import Capabilities, Need, needs_of
from millstream.streams.settings import Settings

__all__ = ["LaneMember", "lane_group", "lane_members"]


_SETTLE_TIMEOUT_S = 10.0
_SETTLE_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class LaneMember:
    """A worker as the group knows it.

    `can_run` is `None` where it is of a version that does not say. `waits` is what requests of its
    numbers wait for, when the group was last dealt. `policy_digest` stands for its policy, `None`
    as for `can_run`.
    """

    worker: str
    can_run: Capabilities | None
    waits: Mapping[int, frozenset[Need]] = field(default_factory=dict)
    policy_digest: str | None = None


def lane_group(settings: Settings) -> str:
    """Give the name of the group whose lanes run agents."""
    cuts = settings.chain_cuts
    return f"{settings.namespace}-lanes" + (f"-{cuts[-1]}" if cuts else "")


async def lane_members(settings: Settings) -> tuple[LaneMember, ...]:
    """Give the live workers, in order of their names. Raises `ServiceUnavailable`."""
    admin = admin_client(settings)
    try:
        await admin.start()
        described = await _settled(admin, lane_group(settings))
    except (KafkaError, TimeoutError) as error:
        raise not_reached(settings, error) from error
    finally:
        await admin.close()
    return tuple(sorted(map(_member, described), key=lambda one: one.worker))


async def _settled(admin: AIOKafkaAdminClient, group: str) -> list[Mapping[str, Any]]:
    """Give the members of a group; while it deals anew, a broker does not say what they said."""
    deadline = asyncio.get_running_loop().time() + _SETTLE_TIMEOUT_S
    while True:
        (response,) = await admin.describe_consumer_groups([group])
        (found,) = response.to_object()["groups"]
        if found["error_code"]:
            raise for_code(found["error_code"])(f"of group {group}")
        is_late = asyncio.get_running_loop().time() > deadline
        if not found["state"].endswith("Rebalance") or is_late:
            members: list[Mapping[str, Any]] = found["members"]
            return members
        await asyncio.sleep(_SETTLE_POLL_S)


def _member(described: Mapping[str, Any]) -> LaneMember:
    name = f"{described['client_id']} at {described['client_host']}"
    try:
        raw = ConsumerProtocolMemberMetadata.decode(described["member_metadata"]).user_data
        claim = json.loads(raw)
        if "names" not in claim:
            return LaneMember(name, None)
        can_run = Capabilities.claimed(claim)
        worker = claim.get("worker") or name
        return LaneMember(worker, can_run, needs_of(claim), claim.get("policy"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return LaneMember(name, None)  # it is joining, or no worker of Millstream
