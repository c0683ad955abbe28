"""aiokafka's fetcher without its sleeps: no reader waits while records are there that it wants.

What aiokafka does, and what is done here instead:

- A node is not asked for 100 ms while records of any of its partitions are unread
  (`prefetch_backoff`), also if the reader waits for another partition, or will want it next. Here a
  node is asked at once if the reader waits, or if more is known to stand on another partition.
- Behind these 100 ms it is asked as ever: a fetch of partitions on which nothing comes then holds
  up, for as long as it may wait (`fetch_max_wait_ms`), those that were read meanwhile. Here a
  fetch that is sent while records are unread waits 20 ms, and a quarter of what they have lain.
- A fetch that brings no records, but moves a position past markers or aborted records, wakes
  nobody: a stretch that ends with a marker takes a poll's whole time. Here it wakes the reader.
- A node whose task is done may count as busy for as long as the loop has not said so. Is that the
  moment in which the next fetch is planned, none is sent until the fetcher looks again, 200 ms
  later: every third look-up of a single record. Here a node is busy until its task ends.
- What lies behind the end of a stretch is fetched too, and waited for. Here a reader may say where
  it ends (`fetch_up_to`): of a stretch of few records less is asked for than the megabyte of any.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer import consumer as consumer_client
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult
from aiokafka.protocol.fetch import FetchRequest

__all__ = ["EagerFetcher", "fetch_eagerly", "fetch_up_to"]

_BESIDE_WAIT_MS = 20

# Brokers send a batch whole, whatever is asked for: records that are larger cost a fetch more.
_FEW_BYTES = 16_384
_RECORD_BYTES = 4_096


def fetch_eagerly() -> None:
    """Have every aiokafka consumer of this process fetch so; may be called again."""
    getattr(consumer_client, "Fetcher")  # noqa: B009  a rename in aiokafka must fail here
    consumer_client.Fetcher = EagerFetcher


def fetch_up_to(consumer: Any, ends: Mapping[TopicPartition, int]) -> None:
    """Have a consumer fetch nothing from these offsets on; other partitions have no end.

    Call it before partitions are assigned. Other consumers than Kafka's fetch nothing ahead.
    """
    fetcher = getattr(consumer, "_fetcher", None)
    if isinstance(fetcher, EagerFetcher):
        fetcher.ends = dict(ends)


@dataclass(slots=True)
class _Node:
    """What is to be done with one node's partitions; `unread_s` is how old each unread fetch is."""

    fetchable: list[tuple[TopicPartition, int]] = field(default_factory=list)
    has_more: bool = False
    unread_s: list[float] = field(default_factory=list)


class EagerFetcher(Fetcher):  # type: ignore[misc]
    """Implements what this module's text says."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self.ends: dict[TopicPartition, int] = {}
        self._busy: set[Any] = set()
        self._planned_for: Any = None

    async def _proc_fetch_request(self, assignment: Any, node_id: Any, request: Any) -> Any:
        try:
            return await super()._proc_fetch_request(assignment, node_id, request)
        finally:
            self._busy.discard(node_id)

    async def _update_fetch_positions(self, assignment: Any, node_id: Any, tps: Any) -> Any:
        try:
            return await super()._update_fetch_positions(assignment, node_id, tps)
        finally:
            self._busy.discard(node_id)

    def _create_fetch_waiter(self) -> Any:
        waiter = super()._create_fetch_waiter()
        if self._records:  # which are not wanted: what is may be fetched now
            self._notify(self._wait_consume_future)
        return waiter

    def _get_actions_per_node(self, assignment: Any) -> tuple[Any, ...]:  # noqa: C901  a case each
        nodes: defaultdict[Any, _Node] = defaultdict(_Node)
        awaiting_reset: defaultdict[Any, list[TopicPartition]] = defaultdict(list)
        resumed: list[Any] = []
        invalid_metadata = False
        now_s = time.monotonic()
        if assignment is not self._planned_for:
            # All tasks for the last one have ended; those that had not begun have told nobody.
            self._planned_for = assignment
            self._busy.clear()
        for tp in assignment.tps:
            state = assignment.state_value(tp)
            node_id = self._select_read_replica(tp)
            unread = self._records.get(tp)
            if unread is not None:
                if not self._is_left(tp, state):
                    nodes[node_id].unread_s.append(now_s - unread._created)  # noqa: SLF001
                elif state.paused:
                    resumed.append(state.resume_fut)
            elif node_id in self._busy:
                continue
            elif node_id is None or node_id == -1:
                invalid_metadata = True
            elif not state.has_valid_position:
                # A follower, from which it may be read, knows no offsets.
                leader = self._client.cluster.leader_for_partition(tp)
                if leader is None or leader == -1:
                    invalid_metadata = True
                else:
                    awaiting_reset[leader].append(tp)
            elif state.paused:
                resumed.append(state.resume_fut)
            elif not self._is_at_end(tp, state):
                node = nodes[node_id]
                node.fetchable.append((tp, state.position))
                node.has_more |= self._has_more(state)
        requests, again_s = self._requests(nodes, awaiting_reset)
        self._busy.update(awaiting_reset, (node_id for node_id, _ in requests))
        return requests, awaiting_reset, again_s, invalid_metadata, resumed

    def _requests(
        self, nodes: Mapping[Any, _Node], awaiting_reset: Mapping[Any, Any]
    ) -> tuple[list[tuple[Any, Any]], float]:
        """Give the fetches to be sent now, and when to look again, in s."""
        has_waiter = any(not waiter.done() for waiter in self._fetch_waiters)
        requests: list[tuple[Any, Any]] = []
        again_s = self._fetcher_timeout
        for node_id, node in nodes.items():
            # First positions, then what stands there.
            if not node.fetchable or node_id in awaiting_reset:
                continue
            wait_ms = self._fetch_max_wait_ms
            if node.unread_s:
                left_s = self._prefetch_backoff - min(node.unread_s)
                if not (has_waiter or node.has_more or left_s <= 0):
                    again_s = min(again_s, left_s)
                    continue
                # The longer they lie there, the less it matters when they are read.
                lain_ms = int(min(node.unread_s) * 1000)
                wait_ms = min(wait_ms, _BESIDE_WAIT_MS + lain_ms // 4)
            requests.append((node_id, self._request(node.fetchable, wait_ms)))
        return requests, again_s

    def _request(self, fetchable: list[tuple[TopicPartition, int]], wait_ms: int) -> Any:
        # Brokers fill an answer in the order asked: none shall always be the first.
        random.shuffle(fetchable)
        by_topic: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for tp, position in fetchable:
            by_topic[tp.topic].append((tp.partition, position, self._bytes_max(tp, position)))
        return FetchRequest(
            wait_ms,
            self._fetch_min_bytes,
            self._fetch_max_bytes,
            self._isolation_level,
            list(by_topic.items()),
            rack_id=self._client_rack or "",
        )

    def _bytes_max(self, tp: TopicPartition, position: int) -> int:
        most = int(self._max_partition_fetch_bytes)
        end = self.ends.get(tp)
        return most if end is None else min(most, _FEW_BYTES + (end - position) * _RECORD_BYTES)

    def _has_more(self, state: Any) -> bool:
        """Tell whether more stood there when the broker was asked last, or was not asked yet."""
        end = state.lso if self._isolation_level == READ_COMMITTED else state.highwater
        return end is None or state.position < end

    def _is_left(self, tp: TopicPartition, state: Any) -> bool:
        """Tell whether nobody will read on in what was fetched, as it stands."""
        return bool(state.paused) or self._is_at_end(tp, state)

    def _is_at_end(self, tp: TopicPartition, state: Any) -> bool:
        end = self.ends.get(tp)
        return end is not None and state.has_valid_position and state.position >= end

    async def fetched_records(
        self,
        partitions: Any,
        timeout: float = 0,  # noqa: ASYNC109  aiokafka's
        max_records: int | None = None,
    ) -> dict[TopicPartition, list[Any]]:
        """Give what was fetched; nothing as soon as a position has moved past what is no record."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        partitions = frozenset(partitions or ())
        while True:
            # What is fetched while a group deals may not be this member's.
            if self._subscriptions.reassignment_in_progress:
                await self._subscriptions.wait_for_assignment()
            drained, has_moved = self._drain(partitions, max_records)
            left_s = deadline - loop.time()
            if drained or has_moved or left_s <= 0:
                return drained
            waiter = self._create_fetch_waiter()
            done, _ = await asyncio.wait([waiter], timeout=left_s)
            if not done or self._closed:
                waiter.cancel()
                return {}
            waiter.result()  # an error of the group is told by it

    def _drain(
        self, partitions: Any, max_records: int | None
    ) -> tuple[dict[TopicPartition, list[Any]], bool]:
        drained: dict[TopicPartition, list[Any]] = {}
        has_moved = False
        for tp in list(self._records):
            if partitions and tp not in partitions:
                if not self._subscriptions.is_assigned(tp):
                    del self._records[tp]
                continue
            fetched = self._records[tp]
            if not isinstance(fetched, FetchResult):
                if drained:
                    break  # the error is raised by the next call
                self._forget(tp)
                fetched.check_raise()
            before = self._position(tp)
            records = fetched.getall(max_records)
            has_moved |= self._position(tp) != before
            if not fetched.has_more():
                self._forget(tp)
            if not records:
                continue
            drained[tp] = records
            if max_records is not None:
                max_records -= len(records)
                if max_records <= 0:
                    break
        return drained, has_moved

    def _position(self, tp: TopicPartition) -> int | None:
        subscription = self._subscriptions.subscription
        if subscription is None or subscription.assignment is None:
            return None
        assignment = subscription.assignment
        if tp not in assignment.tps:
            return None
        state = assignment.state_value(tp)
        return int(state.position) if state.has_valid_position else None

    def _forget(self, tp: TopicPartition) -> None:
        """Let go of what was fetched, so that more is."""
        del self._records[tp]
        self._notify(self._wait_consume_future)
