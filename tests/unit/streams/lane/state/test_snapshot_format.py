"""A snapshot is taken in whole or not at all, whatever stands where its parts should."""

from __future__ import annotations

import base64
import tracemalloc
import zlib

import pytest

from millstream.middleware.pipeline import build_pipeline
from millstream.middleware.policy import Policy
from millstream.schemas.lane_events import LaneSnapshot, SnapshotHeader
from millstream.streams.lane.state import snapshot_format
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.snapshot_format import (
    Captured,
    StoredSnapshot,
    digest,
    state_parts,
)
from millstream.streams.settings import Settings
from millstream.streams.transactions.producers import CommitRefused
from millstream.streams.wire.codec import encode
from tests.making.records import record


def load(data: bytes) -> bool:
    """Tell whether a lane takes in a snapshot with this state, which says its digest rightly."""
    stored = StoredSnapshot("chain")
    parts = [data[at : at + 500_000] for at in range(0, len(data), 500_000)]
    header = SnapshotHeader(
        logs={},
        state_parts=len(parts),
        state_digest=digest(data),
        chunks=(),
        folded_under="policy",
    )
    for number, part in enumerate(parts):
        event = LaneSnapshot(
            stage="chain",
            partition=0,
            generation=1,
            part=f"state-{number}",
            data=base64.b64encode(part).decode(),
        )
        encoded = encode(event, source="/test")
        stored.take(record(encoded.value, key=encoded.key))
    state = LaneState("chain", build_pipeline(Policy()), hands_over=False)
    return stored.load(header, state, Settings(), since_ms=0) is not None


@pytest.mark.parametrize(
    "state", [b"", b"no json", b"[1]", b"{}"], ids=["empty", "no json", "no object", "no folds"]
)
def test_a_state_that_is_none_is_as_good_as_no_snapshot(state: bytes) -> None:
    assert not load(zlib.compress(state))


@pytest.mark.parametrize("data", [b"x", zlib.compress(b"{}")[:-3]], ids=["not packed", "cut off"])
def test_a_state_that_cannot_be_unpacked_is_as_good_as_no_snapshot(data: bytes) -> None:
    assert not load(data)


def test_a_state_that_unpacks_to_more_than_the_bound_takes_no_more_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot_format, "STATE_BYTES_MAX", bytes_max := 16 * 1024 * 1024)
    pack = zlib.compressobj(9)
    zeros = bytes(1024 * 1024)
    data = b"".join(pack.compress(zeros) for _ in range(256))
    tracemalloc.start()
    try:
        assert not load(data + pack.flush())
        assert tracemalloc.get_traced_memory()[1] < 4 * bytes_max
    finally:
        tracemalloc.stop()


def test_a_state_that_nobody_would_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_format, "STATE_BYTES_MAX", 100)
    captured = Captured({"fold": "x" * 100}, (), (), {}, 0)
    with pytest.raises(CommitRefused, match="too large for a snapshot"):
        state_parts(captured)
