"""Adds the rules that give users their rights, as the user who may: `Alter` on the cluster.

Rules that are there already stay. Requests as Kafka's `clients/` defines them (KIP-140, KIP-290).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.admin import CreateAclsRequest_v1, DescribeAclsRequest
from aiokafka.protocol.api import Request

from millstream.schemas.errors import ServiceUnavailable
from millstream.streams.broker.clients import not_reached, raw_client
from millstream.streams.broker.recovery import RecoveringClient
from millstream.streams.broker.rights.acls import Grant
from millstream.streams.settings import Settings

__all__ = ["grant"]

_ANSWER_MAX_S = 30.0
_LOOK_AGAIN_S = 0.02
_KINDS = {"topic": 2, "group": 3, "transactional-id": 5}
_LITERAL, _PREFIXED = 3, 4
_ANY = 1
_ALLOW = 3
_OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}

_Rule = tuple[int, str, int, str, str, int, int]


class _CreateRules(Request[CreateAclsRequest_v1]):  # type: ignore[misc]
    """Creates many rules at once; aiokafka's own request creates one."""

    API_KEY = 30

    def __init__(self, rules: list[_Rule]) -> None:
        self._rules = rules

    def build(self, request_struct_class: type[CreateAclsRequest_v1]) -> CreateAclsRequest_v1:
        """Build what is sent."""
        return request_struct_class(self._rules)


async def grant(settings: Settings, found: Iterable[Grant]) -> None:
    """Add rules, as the user of `settings`; returns once all brokers go by them.

    Raises `ServiceUnavailable` if Kafka does not answer, or refuses.
    """
    rules = [rule for one in found for rule in _rules(one)]
    client = raw_client(settings)
    try:
        async with asyncio.timeout(_ANSWER_MAX_S):
            await client.bootstrap()
            nodes = [node.nodeId for node in client.cluster.brokers()]
            answer = await client.send(nodes[0], _CreateRules(rules))
            for code, told in answer.creation_responses:
                if code:
                    _refused(code, told)
            for node in nodes:
                await _known(client, node, rules)
    except (KafkaError, TimeoutError) as error:
        raise not_reached(settings, error) from error
    finally:
        await asyncio.shield(client.close())


def _rules(found: Grant) -> Iterator[_Rule]:
    pattern = _PREFIXED if found.resource.is_prefix else _LITERAL
    on = (_KINDS[found.resource.kind], found.resource.name, pattern)
    for operation in found.operations:
        yield (*on, found.principal, "*", _OPERATIONS[operation], _ALLOW)


async def _known(client: RecoveringClient, node: int, rules: list[_Rule]) -> None:
    """Wait until a broker goes by rules: it hears of them later than they are taken."""
    wanted = Counter(rule[:4] for rule in rules)
    while lacking := [on for on in wanted if await _count(client, node, *on) < wanted[on]]:
        wanted = Counter({on: wanted[on] for on in lacking})
        await asyncio.sleep(_LOOK_AGAIN_S)


async def _count(client: RecoveringClient, node: int, *on: Any) -> int:
    asked = DescribeAclsRequest(*on, None, _ANY, _ANY)
    answer = await client.send(node, asked)
    if answer.error_code:
        _refused(answer.error_code, answer.error_message)
    return sum(len(resource[-1]) for resource in answer.resources)


def _refused(code: int, told: str | None) -> NoReturn:
    message = f"Kafka refuses to grant rights: {told or for_code(code).__name__}"
    raise ServiceUnavailable(message)
