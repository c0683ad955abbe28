"""Holds that nobody would ever lift: their request has ended, or never came."""

from __future__ import annotations

from millstream.schemas.lane_events import HoldPlaced
from millstream.schemas.topics import REQUESTS
from millstream.streams.lane.state.lane_state import LaneState

KEPT_MS = 2 * (REQUESTS.retention_ms or 0)
"""So long a hold waits for its request: one that comes within the first half of it, and is left
unread as long as its topic keeps it, finds the hold still."""


def why_stale(hold: HoldPlaced, placed_ms: int, state: LaneState, *, now_ms: int) -> str | None:
    """Say why a hold on a request may go; `None` for one that stays, as those on sessions do.

    `placed_ms` is the broker's time of its record. `state` knows what is decided and parked.
    """
    if hold.request_id is None:
        return None
    key = (hold.tenant, hold.user_id, hold.request_id)
    # Where the chain is cut, an earlier stage may have refused it.
    if state.is_finished(key):
        return "its request has ended"
    if key in state.decided or key in state.parked or placed_ms > now_ms - KEPT_MS:
        return None
    return "its request never came"
