"""Which sessions were cancelled, for the sake of those requests that were not at hand then."""

from __future__ import annotations

from millstream.schemas.lane_events import CommandObeyed
from millstream.schemas.topics import OBEYED, REQUESTS
from millstream.streams.lane.state.folds import Begin, Fold, SnapshotBody, Source
from millstream.streams.lane.state.sessions.fair_memory import FairMemory
from millstream.streams.topic_settings.retention import Retention
from millstream.streams.wire.keys import SessionKey

CANCELS_MAX = 10_000
"""Sessions of one partition whose last cancel is remembered."""


class CancelledSessions:
    """Until when what arrives for a session has been cancelled: a fold of the commands obeyed.

    A request may stand unread behind a backlog, be left there as part of a flood, or come by way of
    another partition: it ends when its turn comes. That can be as long as its topic keeps it; a
    cancel is remembered for the same time; beyond `CANCELS_MAX` the oldest is forgotten of the user
    who has most. Memory: some 0.6 kB for each.
    """

    def __init__(self, retention: Retention | None = None) -> None:
        self._until = FairMemory[int](CANCELS_MAX)
        self._kept_ms = (retention or Retention()).ms(REQUESTS) or 0

    def covers(self, session: SessionKey, at_ms: int) -> bool:
        """Tell whether a request of `session` that arrived at `at_ms` came before its cancel."""
        until_ms = self._until.get(session)
        return until_ms is not None and at_ms <= until_ms

    def until(self, session: SessionKey) -> int | None:
        """Give the time of a session's last cancel, in milliseconds, `None` if there was none."""
        return self._until.get(session)

    def as_fold(self) -> Fold:
        """Give what the list is told of it."""
        return Fold(
            name="cancelled",
            # A session's cancel counts for as long as its requests may stand unread.
            topics=(Source(OBEYED, Begin.LOG),),
            fold={CommandObeyed: self.fold},
            entries=("cancelled",),
            state=lambda: {"cancelled": self.all},
            load=self._load,
            canonical=lambda: sorted(self.all),
        )

    def fold(self, obeyed: CommandObeyed) -> None:
        """Take in a committed event. A command that cancels no session changes nothing."""
        if obeyed.session_id is not None and obeyed.until_ms is not None:
            self.cancel((obeyed.tenant, obeyed.user_id, obeyed.session_id), obeyed.until_ms)

    def cancel(self, session: SessionKey, until_ms: int) -> None:
        """Remember that what arrived until then is cancelled."""
        self._until.put(session, max(until_ms, self._until.get(session) or 0))
        oldest_ms = until_ms - self._kept_ms
        while (oldest := next(iter(self._until.items())))[1] < oldest_ms:
            self._until.forget(oldest[0])

    def _load(self, body: SnapshotBody) -> None:
        for (tenant, user_id, session_id), until_ms in body.entries["cancelled"]:
            self.cancel((tenant, user_id, session_id), until_ms)

    @property
    def all(self) -> tuple[tuple[SessionKey, int], ...]:
        """Give each session with the time of its last cancel, the oldest first."""
        return tuple(self._until.items())
