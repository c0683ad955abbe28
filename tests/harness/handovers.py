"""How long a partition had no owner that answered, from what stands on the topics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import ATTEMPTS_PER_GENERATION, LaneOpened
from millstream.streams.wire.partitioning import home_partition


@dataclass(frozen=True, slots=True)
class Handover:
    """A partition that changed hands: seconds from the old owner's last result to the new lane.

    `answered_s` ends with the new owner's first result, `None` if it had nothing to answer.
    """

    partition: int
    generation: int
    opened_s: float
    answered_s: float | None


def handovers(
    results: Iterable[AgentResult], opened: Iterable[LaneOpened], partitions: int
) -> tuple[Handover, ...]:
    """Give those between two owners of which the old one had answered something."""
    answered_ms: dict[tuple[int, int], list[int]] = defaultdict(list)
    for one in results:
        home = home_partition(one.partition_key, partitions)
        if one.attempt:  # else nothing ran
            answered_ms[home, one.attempt // ATTEMPTS_PER_GENERATION].append(one.at_ms)
    found = []
    # It is written again as its owner begins to read.
    lanes = {(lane.partition, lane.generation): lane for lane in opened}
    for lane in sorted(lanes.values(), key=lambda lane: (lane.at_ms, lane.partition)):
        before = answered_ms.get((lane.partition, lane.generation - 1))
        after = answered_ms.get((lane.partition, lane.generation))
        if before:
            last_ms = max(before)
            answered_s = None if after is None else (min(after) - last_ms) / 1000
            opened_s = (lane.at_ms - last_ms) / 1000
            found.append(Handover(lane.partition, lane.generation, opened_s, answered_s))
    return tuple(found)


def longest_wait_s(results: Iterable[AgentResult]) -> float:
    """Give the longest that a request waited for its result."""
    return max((one.at_ms - one.accepted_at_ms for one in results), default=0) / 1000
