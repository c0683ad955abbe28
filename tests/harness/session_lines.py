"""The lines of sessions' turns as the log has them: what a run went on from, and what it must."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from millstream.schemas.events import CheckpointSaved, SessionUpdated
from millstream.schemas.topics import CHECKPOINTS, SESSIONS
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode
from millstream.streams.wire.keys import SessionKey, session_key
from tests.harness.lane_common import places_of, records_of
from tests.harness.lanes import read_whole, reader

__all__ = ["breaks", "breaks_on"]


def breaks(heads: Iterable[SessionUpdated], saved: Iterable[CheckpointSaved]) -> Iterator[str]:
    """Give each turn that did not go on from the head before it, both in the order of the log."""
    checkpoints = {one.checkpoint_id: one for one in saved}
    told: defaultdict[SessionKey, list[SessionUpdated]] = defaultdict(list)
    for head in heads:
        told[session_key(head)].append(head)
    for key, line in told.items():
        for before, head in zip([None, *line], line, strict=False):
            name = f"turn {head.turn} of {key[2]}"
            checkpoint = checkpoints.get(head.checkpoint_id)
            if head.turn != (1 if before is None else before.turn + 1):
                yield f"{name} follows turn {before and before.turn}"
            if checkpoint is None:
                yield f"{name} has no checkpoint"
            elif checkpoint.turn == head.turn:  # a run left it
                parent = None if before is None else before.checkpoint_id
                if checkpoint.parent_id != parent:
                    yield f"{name} went on from {checkpoint.parent_id}, not from {parent}"
            elif checkpoint.turn > head.turn or session_key(checkpoint) != key:
                yield f"{name} is restored from turn {checkpoint.turn} of {checkpoint.session_id}"


async def breaks_on(settings: Settings) -> list[str]:
    """Give the breaks of all sessions on Kafka now."""
    records = await records_of(reader(settings), places_of(settings, SESSIONS))
    heads = [decode(one, SessionUpdated) for one in records if one.value is not None]
    return list(breaks(heads, await read_whole(settings, CHECKPOINTS, CheckpointSaved)))
