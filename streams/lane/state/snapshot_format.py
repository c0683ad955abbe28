"""What a lane's snapshot is made of: its parts as bytes, and the way back from records to state.

A snapshot holds what the lane's folds give of themselves, and the sealed ids. A part that is
missing, altered or of another format is as good as no snapshot, and the lane is restored from the
topics' window instead. Where only what a layer goes by differs, or how long ids are remembered,
that part alone is folded anew: the others do not depend on it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import orjson
import structlog
from aiokafka import TopicPartition

from millstream.schemas.base import Address, compound_key
from millstream.schemas.errors import Poison
from millstream.schemas.lane_events import LaneSnapshot, SnapshotHeader
from millstream.streams.broker.compacted import pass_over
from millstream.streams.lane.state.folds import Refold, SnapshotBody, packed
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.seen_ids import SealedChunk
from millstream.streams.settings import Settings
from millstream.streams.transactions.producers import CommitRefused
from millstream.streams.wire.codec import decode

log = structlog.get_logger(__name__)

PART_BYTES_MAX = 500_000
"""Most bytes in one part: in base64, with what goes round it, less than 700 kB."""

STATE_BYTES_MAX = 512 * 1024 * 1024
"""Most bytes that a state may unpack to; of a larger one no snapshot is taken."""

HEADER = "header"

FORMAT = 4
"""Which format is written now; a snapshot of any other is not used."""

_LEVEL = 1
"""zlib's quickest: a snapshot must not cost the runs beside it much."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What a snapshot is made of: all that its lane has committed up to one moment.

    `entries` are what the folds gave. `logs` says where what it does not know begins,
    `tail_records` how much of them it knows.
    """

    entries: dict[str, Any]
    chunks: tuple[tuple[int, int], ...]
    unwritten: tuple[SealedChunk, ...]
    logs: dict[str, int]
    tail_records: int


def taken_under(
    state: LaneState, settings: Settings, *, snapshot_format: int = FORMAT
) -> dict[str, Any]:
    """Give what a header says of what a state depends on besides the records.

    That is the format, the stage, what the layers go by, and how long and how many ids are
    remembered: the header's fields by their names.
    """
    under: dict[str, Any] = {
        "base": digest(repr((snapshot_format, state.hands_over)).encode()),
        "layers": {
            name: digest(text.encode()) for name, text in state.pipeline.states.folded_under.items()
        },
        "dedup_window_s": settings.dedup_window_s,
        "dedup_ids_max": settings.dedup_ids_max,
    }
    return {"folded_under": digest(repr(under).encode()), **under}


def digest(data: bytes) -> str:
    """Give the digest that tells an altered part."""
    return blake2b(data, digest_size=16).hexdigest()


def state_parts(captured: Captured) -> tuple[bytes, ...]:
    """Give the state, without sealed ids, as parts that fit into records.

    Raises `CommitRefused` for one of more than `STATE_BYTES_MAX`, which nobody would read.
    """
    state = packed(captured.entries)
    if len(state) > STATE_BYTES_MAX:
        raise CommitRefused(f"a state of {len(state)} bytes is too large for a snapshot")
    data = zlib.compress(state, _LEVEL)
    return tuple(
        data[start : start + PART_BYTES_MAX] for start in range(0, len(data), PART_BYTES_MAX)
    )


def state_part(number: int) -> str:
    """Give the name of a part of the state."""
    return f"state-{number}"


def ids_part(number: int) -> str:
    """Give the name of a chunk of ids."""
    return f"ids-{number}"


@dataclass(slots=True)
class StoredSnapshot:
    """The newest record of each part of one stage's snapshot, as a topic holds them."""

    stage: str
    records: dict[bytes, Any] = field(default_factory=dict)

    def take(self, record: Any) -> None:
        """Take in a record, in order; those of other stages are passed over."""
        if record.key is None or not record.key.startswith(compound_key(self.stage, "").encode()):
            return
        if record.value is None:
            self.records.pop(record.key, None)
        else:
            self.records[record.key] = record

    @property
    def parts(self) -> frozenset[str]:
        """Give the names of the parts that there are."""
        return frozenset(key.decode(errors="replace").partition("\x1f")[2] for key in self.records)

    @property
    def taken_ms(self) -> int:
        """The broker's time at which the newest header was written, 0 if there is none."""
        record = self.records.get(compound_key(self.stage, HEADER).encode())
        return 0 if record is None else int(record.timestamp)

    def header_at(self, where: TopicPartition) -> Address:
        """Where the newest header stands on the partition that was read; 0 if there is none."""
        record = self.records.get(compound_key(self.stage, HEADER).encode())
        offset = 0 if record is None else int(record.offset)
        return Address(topic=where.topic, partition=where.partition, offset=offset)

    def header(self, under: Mapping[str, Any], ends: Mapping[str, int]) -> SnapshotHeader | None:
        """Give the header of a snapshot that may be used, `None` and a log line if there is none.

        Its base must be that of `under`, as `taken_under` gives it, and it must know how far it
        read of each log in `ends`.
        """
        part = self._part(HEADER)
        if part is None or part.header is None:
            return None
        header = part.header
        if header.base != under["base"]:
            log.info("snapshot of another format or stage", stage=self.stage)
            return None
        if any(header.logs.get(name, end + 1) > end for name, end in ends.items()):
            log.warning("snapshot of other logs passed over", stage=self.stage)
            return None
        return header

    def load(
        self, header: SnapshotHeader, state: LaneState, settings: Settings, *, since_ms: int
    ) -> tuple[Refold, ...] | None:
        """Take a snapshot into a state that has folded nothing; what comes next is of `since_ms`.

        Gives what is to be folded anew, up to where it begins. `None`: it was not whole, or did not
        hold what every fold needs, and nothing was taken.
        """
        data = [self._data(state_part(number)) for number in range(header.state_parts)]
        chunks = [self._data(ids_part(number)) for number, _, _ in header.chunks]
        if not _is_whole(header, data, chunks):
            log.warning("snapshot that is not whole passed over", stage=self.stage)
            return None
        body = _unpacked(b"".join(filter(None, data)))
        if body is None:
            log.warning("snapshot that cannot be unpacked passed over", stage=self.stage)
            return None
        if missing := set(state.folds.entries) - body.keys():
            log.info("snapshot of fewer folds", stage=self.stage, missing=sorted(missing))
            return None
        sealed = zip(header.chunks, chunks, strict=True)
        loaded = ((SealedChunk(number, ids or b""), left) for (number, left, _), ids in sealed)
        wants_more_ids = settings.dedup_window_s > (
            header.dedup_window_s or 0
        ) or settings.dedup_ids_max > (header.dedup_ids_max or 0)
        window_ms = settings.dedup_window_s * 1000
        return state.folds.load(
            SnapshotBody(
                body,
                tuple(loaded),
                ids_since_ms=since_ms - window_ms if wants_more_ids else None,
                history_ms=max(window_ms, state.pipeline.history_ms),
            )
        )

    def _data(self, part: str) -> bytes | None:
        given = self._part(part)
        if given is None or given.data is None:
            return None
        try:
            return base64.b64decode(given.data, validate=True)
        except ValueError:
            return None

    def _part(self, part: str) -> LaneSnapshot | None:
        record = self.records.get(compound_key(self.stage, part).encode())
        if record is None:
            return None
        try:
            return decode(record, LaneSnapshot)
        except Poison as poison:
            pass_over(record, poison)
            return None


def _unpacked(data: bytes) -> dict[str, Any] | None:
    """Unpack a state, `None` for what is none or larger than any: anybody may write a digest."""
    stream = zlib.decompressobj()
    try:
        state = stream.decompress(data, STATE_BYTES_MAX + 1)
        body = orjson.loads(state) if stream.eof and len(state) <= STATE_BYTES_MAX else None
    except (zlib.error, orjson.JSONDecodeError):
        return None
    return body if isinstance(body, dict) else None


def _is_whole(
    header: SnapshotHeader, data: Sequence[bytes | None], chunks: Iterable[bytes | None]
) -> bool:
    state = b"".join(filter(None, data))
    return digest(state) == header.state_digest and all(
        ids is not None and digest(ids) == wanted
        for ids, (_, _, wanted) in zip(chunks, header.chunks, strict=True)
    )
