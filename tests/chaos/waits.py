"""Where the requests that waited longest did their waiting, from what stands on the topics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import ATTEMPTS_PER_GENERATION, LaneOpened
from millstream.streams.wire.partitioning import home_partition
from tests.chaos.calls import Call

_LATE = float("inf")


@dataclass(frozen=True, slots=True)
class Wait:
    """A request's way to its result, in seconds, of which each is one of the other four.

    `unowned_s`: from the last sign of a lane to its successor's opening. `unbegun_s`: under a lane
    that had yet to make a call for the request's session. `behind_s`: the session's earlier runs.
    `own_s`: its own calls under that lane, and its result.
    """

    request_id: str
    partition: int
    in_all_s: float
    unowned_s: float
    unbegun_s: float
    behind_s: float
    own_s: float

    def __str__(self) -> str:
        """Tell it in a line."""
        return (
            f"{self.request_id} of partition {self.partition} waited {self.in_all_s:.1f} s: "
            f"{self.unowned_s:.1f} without a lane, {self.unbegun_s:.1f} until its session went on, "
            f"{self.behind_s:.1f} behind its session, {self.own_s:.1f} its own"
        )


@dataclass(frozen=True, slots=True)
class _Reign:
    """A lane of a partition, from its opening to the last sign of it."""

    opened_ms: float
    until_ms: float


def longest_waits(
    results: Sequence[AgentResult],
    opened: Iterable[LaneOpened],
    calls: Sequence[Call],
    partitions: int,
    *,
    count: int,
) -> tuple[Wait, ...]:
    """Take the longest waits apart, the longest first."""
    homes = {one.request_id: home_partition(one.partition_key, partitions) for one in results}
    sessions = {one.request_id: (one.user_id, one.session_id) for one in results}
    calls_of: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in calls:
        if call.request_id in sessions:
            calls_of[sessions[call.request_id]].append(call)
    reigns = _reigns(results, opened, calls, homes)
    worst = sorted(results, key=lambda one: one.accepted_at_ms - one.at_ms)[:count]
    return tuple(
        _taken_apart(one, homes[one.request_id], reigns[homes[one.request_id]],
                     calls_of[sessions[one.request_id]])
        for one in worst
    )  # fmt: skip


def _reigns(
    results: Iterable[AgentResult],
    opened: Iterable[LaneOpened],
    calls: Iterable[Call],
    homes: dict[str, int],
) -> dict[int, list[_Reign]]:
    lanes: dict[int, list[LaneOpened]] = defaultdict(list)
    # It is written again as its owner begins to read.
    owners = {(lane.partition, lane.generation): lane for lane in opened}
    for lane in sorted(owners.values(), key=lambda lane: lane.generation):
        lanes[lane.partition].append(lane)
    signs: dict[int, list[float]] = defaultdict(list)
    answers: dict[tuple[int, int], list[float]] = defaultdict(list)
    for call in calls:
        if call.request_id in homes:
            signs[homes[call.request_id]] += [call.started_ms, call.ended_ms or call.started_ms]
    for one in results:
        generation = one.attempt // ATTEMPTS_PER_GENERATION
        answers[homes[one.request_id], generation].append(one.at_ms)
    found: dict[int, list[_Reign]] = defaultdict(list)
    for partition, of_partition in lanes.items():
        for lane, after in zip(of_partition, [*of_partition[1:], None], strict=True):
            start_ms, next_ms = lane.at_ms, _LATE if after is None else after.at_ms
            seen = [at for at in signs[partition] if start_ms <= at < next_ms]
            seen += answers[partition, lane.generation]
            until_ms = _LATE if after is None else min(next_ms, max(seen, default=start_ms))
            found[partition].append(_Reign(start_ms, until_ms))
    return found


def _taken_apart(
    one: AgentResult, partition: int, reigns: Iterable[_Reign], calls: Sequence[Call]
) -> Wait:
    """Split a wait; `calls` are those of its session."""
    in_all = one.at_ms - one.accepted_at_ms
    unbegun = behind = own = 0.0
    for reign in reigns:
        begin = max(reign.opened_ms, one.accepted_at_ms)
        end = min(reign.until_ms, one.at_ms)
        if end <= begin:
            continue
        of_reign = [call for call in calls if reign.opened_ms <= call.started_ms < end]
        mine = [call.started_ms for call in of_reign if call.request_id == one.request_id]
        goes_on = _within(min((call.started_ms for call in of_reign), default=end), begin, end)
        begins = _within(min(mine, default=end), goes_on, end)
        unbegun += goes_on - begin
        behind += begins - goes_on
        own += end - begins
    unowned = in_all - unbegun - behind - own
    return Wait(
        one.request_id,
        partition,
        *(part / 1000 for part in (in_all, unowned, unbegun, behind, own)),
    )


def _within(at: float, lowest: float, highest: float) -> float:
    return max(lowest, min(at, highest))
