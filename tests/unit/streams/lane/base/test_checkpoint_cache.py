"""A worker's lanes share one bound; whole objects count, and a lane that ends leaves none."""

from __future__ import annotations

import gc
import tracemalloc

from millstream.schemas.events import CheckpointSaved
from millstream.streams.lane.base.checkpoint_cache import OBJECT_BYTES, CheckpointCache
from millstream.streams.wire.keys import session_key
from tests import making


def saved(session: str, *, turn: int = 1, size: int = 10) -> CheckpointSaved:
    return making.checkpoint(turn, session_id=session, data="x" * size)


def test_lanes_share_one_bound_and_the_oldest_of_any_goes() -> None:
    cache = CheckpointCache(bytes_max=2 * (OBJECT_BYTES + 10))
    first, second = cache.of_lane(), cache.of_lane()
    first.keep(saved("a"))
    second.keep(saved("b"))
    second.keep(saved("c"))
    assert first.get(session_key(saved("a"))) is None
    assert second.get(session_key(saved("b"))) == saved("b")
    assert (len(cache), cache.bytes) == (2, 2 * (OBJECT_BYTES + 10))


def test_a_lane_is_given_nothing_of_another_one_that_had_the_partition() -> None:
    cache = CheckpointCache()
    before = cache.of_lane()
    before.keep(saved("a"))
    assert cache.of_lane().get(session_key(saved("a"))) is None


def test_a_lane_that_ends_leaves_none() -> None:
    cache = CheckpointCache()
    ended, other = cache.of_lane(), cache.of_lane()
    for number in range(10):
        ended.keep(saved(f"s{number}"))
    other.keep(saved("a"))
    ended.close()
    assert (len(cache), cache.bytes) == (1, OBJECT_BYTES + 10)


def test_small_checkpoints_take_no_more_memory_than_is_counted() -> None:
    values = [saved(f"session-{number}", size=4).model_dump_json() for number in range(2000)]
    cache = CheckpointCache()
    lane = cache.of_lane()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for value in values:
            lane.keep(CheckpointSaved.model_validate_json(value))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(cache) == 2000
    assert after - before < cache.bytes
