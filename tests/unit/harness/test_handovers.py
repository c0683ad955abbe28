from __future__ import annotations

from millstream.schemas.base import Address
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import LaneOpened
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.harness.handovers import Handover, handovers, longest_wait_s

PARTITIONS = 4
ADA = home_partition("ada", PARTITIONS)


def result(at_ms: int, attempt: int) -> AgentResult:
    return making.result(
        request_id=f"r{at_ms}",
        at_ms=at_ms,
        attempt=attempt,
        template="chat_agent",
        source=Address(topic="requests", partition=ADA, offset=0),
        accepted_at_ms=at_ms - 400,
    )


def opened(at_ms: int, generation: int, partition: int = ADA) -> LaneOpened:
    return making.opened(partition=partition, generation=generation, at_ms=at_ms)


def test_a_handover_is_from_the_last_result_of_an_owner_to_its_successor() -> None:
    results = [result(1000, 1000), result(2000, 1001), result(5000, 2000)]
    lanes = [opened(500, 1), opened(3500, 2), opened(9000, 3), opened(9500, 2, ADA + 1)]
    assert handovers(results, lanes, PARTITIONS) == (
        Handover(ADA, 2, opened_s=1.5, answered_s=3.0),
        Handover(ADA, 3, opened_s=4.0, answered_s=None),
    )


def test_what_waited_longest_is_counted() -> None:
    assert longest_wait_s([result(1000, 1000)]) == 0.4
    assert longest_wait_s([]) == 0
