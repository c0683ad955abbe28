"""Each session's newest committed checkpoint, by its head."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from millstream.schemas.events import SessionUpdated
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import SESSION_STATES, SESSIONS
from millstream.streams.lane.state.folds import Begin, Fold, Source
from millstream.streams.wire.keys import SessionKey, session_key


class SessionHeads:
    """The heads of a lane's sessions, the least recently moved first: a fold.

    No snapshot holds them: `sessions` is compacted, and read whole.
    """

    def __init__(self) -> None:
        self.heads: OrderedDict[SessionKey, SessionUpdated] = OrderedDict()

    def as_fold(self) -> Fold:
        """Give what the list is told of it."""
        return Fold(
            name="heads",
            topics=(
                Source(SESSIONS, Begin.WHOLE, follows_another=lambda head: head.turn > 1),
                # A session that was deleted has no head, whatever else stands on the log still.
                Source(SESSION_STATES, Begin.WHOLE, follows_another=lambda one: one.revision > 1),
            ),
            fold={SessionUpdated: self.move, SessionState: self._forget_deleted},
            canonical=self._canonical,
        )

    def move(self, head: SessionUpdated) -> None:
        """Take in a session's head; one that is about to be committed may be taken in ahead."""
        key = session_key(head)
        self.heads[key] = head
        self.heads.move_to_end(key)
        # Its checkpoint is gone, or about to be: the session would begin anew in any case.
        since_ms = head.at_ms - (SESSIONS.retention_ms or 0)
        while next(iter(self.heads.values())).at_ms < since_ms:
            self.heads.popitem(last=False)

    def drop(self, session: SessionKey) -> None:
        """Forget a session's head."""
        self.heads.pop(session, None)

    def _forget_deleted(self, state: SessionState) -> None:
        if state.state == "deleted":
            self.drop((state.tenant, state.user_id, state.session_id))

    def _canonical(self) -> Any:
        return [self.heads[key] for key in sorted(self.heads)]
