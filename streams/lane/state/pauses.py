"""The pauses of a lane: a fold of the topic `holds`."""

from __future__ import annotations

from collections import Counter

from millstream.schemas.base import UserKey
from millstream.schemas.lane_events import HoldPlaced
from millstream.schemas.topics import HOLDS, REQUESTS
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.topic_settings.retention import Retention
from millstream.streams.wire.codec import Tombstone
from millstream.streams.wire.keys import RequestKey, SessionKey

HOLDS_MAX = 10_000
"""Most requests and sessions of one partition that may be paused at once."""


class Pauses:
    """The holds that are committed. Memory: some 0.3 kB for each, at most `HOLDS_MAX`."""

    def __init__(self) -> None:
        self._of_users: Counter[UserKey] = Counter()
        self._requests: set[RequestKey] = set()
        self._sessions: set[SessionKey] = set()

    def __len__(self) -> int:
        """Give the number of holds."""
        return len(self._requests) + len(self._sessions)

    def has_room(self, hold: HoldPlaced) -> bool:
        """Tell whether one more may be placed: a user has no more than are left for all others.

        So whoever floods leaves room for everybody who does not. Source: dynamic thresholds of
        shared buffers (Choudhury and Hahne, IEEE/ACM Transactions on Networking 6, 1998).
        """
        return self._of_users[hold.tenant, hold.user_id] < HOLDS_MAX - len(self)

    def is_paused(self, key: RequestKey, session: SessionKey) -> bool:
        """Tell whether a request may not begin, by itself or with its session."""
        return key in self._requests or session in self._sessions

    def of_request(self, key: RequestKey) -> HoldPlaced | None:
        """Give the hold on a request by itself."""
        if key not in self._requests:
            return None
        tenant, user_id, request_id = key
        return HoldPlaced(tenant=tenant, user_id=user_id, request_id=request_id)

    def lift(self, key: RequestKey) -> list[Tombstone]:
        """Lift the pause of a request that ends now; give what its topic is to forget."""
        hold = self.of_request(key)
        if hold is None:
            return []
        self.remove(hold)
        return [Tombstone(HOLDS, hold.record_key)]

    def __contains__(self, hold: HoldPlaced) -> bool:
        """Tell whether there is such a hold."""
        return _target(hold) in self._of_its_kind(hold)

    def add(self, hold: HoldPlaced) -> None:
        """Take in a hold."""
        if hold not in self:
            self._of_its_kind(hold).add(_target(hold))
            self._of_users[hold.tenant, hold.user_id] += 1

    def remove(self, hold: HoldPlaced) -> None:
        """Take a hold back; one that was never placed is none."""
        if hold not in self:
            return
        self._of_its_kind(hold).discard(_target(hold))
        user = (hold.tenant, hold.user_id)
        self._of_users[user] -= 1
        if not self._of_users[user]:
            del self._of_users[user]

    def _of_its_kind(self, hold: HoldPlaced) -> set[tuple[str, str, str]]:
        return self._requests if hold.request_id is not None else self._sessions


def _target(hold: HoldPlaced) -> tuple[str, str, str]:
    return (hold.tenant, hold.user_id, str(hold.request_id or hold.session_id))


def kept_ms(retention: Retention) -> int:
    """Give how long a hold waits for its request.

    One that comes within the first half of it, and is left unread as long as its topic keeps it,
    finds the hold still.
    """
    return 2 * (retention.ms(REQUESTS) or 0)


def expiry_reason(
    hold: HoldPlaced, placed_ms: int, state: LaneState, *, before_ms: int
) -> str | None:
    """Say why a hold on a request may go; `None` for one that stays, as those on sessions do.

    `placed_ms` is the broker's time of its record. `state` knows what is decided and parked. One
    that was placed up to `before_ms` has waited long enough for its request.
    """
    if hold.request_id is None:
        return None
    key = (hold.tenant, hold.user_id, hold.request_id)
    # Where the chain is cut, an earlier stage may have refused it.
    if state.is_finished(key):
        return "its request has ended"
    if key in state.decided or key in state.parked or placed_ms > before_ms:
        return None
    return "its request never came"
