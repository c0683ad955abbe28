"""The runs of a lane that are in memory: by request, and how many by user and by session."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile

from millstream.schemas.base import UserKey
from millstream.streams.lane.runs.run import Run
from millstream.streams.wire.keys import RequestKey, SessionKey


class RunTable:
    """Runs in the order in which they came into memory."""

    def __init__(self) -> None:
        self._runs: dict[RequestKey, Run] = {}
        self._of_user: Counter[UserKey] = Counter()
        self._of_session: dict[SessionKey, dict[RequestKey, Run]] = {}
        self._unparked: dict[RequestKey, Run] = {}
        # Sessions whose runs must all leave before one of them may come back.
        self._leaving: set[SessionKey] = set()
        # Sessions whose runs are parked, all of them.
        self._all_parked: set[SessionKey] = set()

    def __len__(self) -> int:
        """Give the number of runs."""
        return len(self._runs)

    def add(self, run: Run) -> None:
        """Take a run in."""
        self._runs[run.key] = run
        self._of_user[run.key[:2]] += 1
        self._of_session.setdefault(run.session, {})[run.key] = run
        if run.parked is None:
            self._unparked[run.key] = run
            self._all_parked.discard(run.session)

    def remove(self, run: Run) -> bool:
        """Let a run go; tells whether it was the last of a session that was to leave."""
        del self._runs[run.key]
        self._unparked.pop(run.key, None)
        user = run.key[:2]
        self._of_user[user] -= 1
        if not self._of_user[user]:
            del self._of_user[user]
        of_session = self._of_session[run.session]
        del of_session[run.key]
        if of_session:
            return False
        del self._of_session[run.session]
        self._all_parked.discard(run.session)
        is_over = run.session in self._leaving
        self._leaving.discard(run.session)
        return is_over

    def get(self, key: RequestKey) -> Run | None:
        """Give a request's run."""
        return self._runs.get(key)

    def of_user(self, user: UserKey) -> int:
        """Count a user's runs."""
        return self._of_user[user]

    def of_session(self, session: SessionKey) -> tuple[Run, ...]:
        """Give a session's runs, in order."""
        return tuple(self._of_session.get(session, {}).values())

    def sessions_of(self, user: UserKey) -> tuple[SessionKey, ...]:
        """Give the sessions of which a user's runs are."""
        return tuple(session for session in self._of_session if session[:2] == user)

    def is_first(self, run: Run) -> bool:
        """Tell whether a run is the one of its session whose turn it is."""
        return next(iter(self._of_session[run.session].values())) is run

    def leave(self, session: SessionKey) -> None:
        """Note that all runs of a session must leave before one of them may come back."""
        self._leaving.add(session)

    def is_leaving(self, session: SessionKey) -> bool:
        """Tell whether runs of a session are yet to leave."""
        return session in self._leaving

    def to_park_of_session(self, session: SessionKey) -> tuple[Run, ...]:
        """Give the runs of a session to be parked before one behind them; none if they are."""
        if session in self._all_parked:
            return ()
        self._all_parked.add(session)
        return self.of_session(session)

    def to_park_of_user(self, user: UserKey) -> tuple[Run, ...]:
        """Give a user's runs to be parked: those that still hold their records."""
        unparked = tuple(run for run in self._unparked.values() if run.key[:2] == user)
        self._all_parked.update(run.session for run in unparked)
        return unparked

    def unparked_since(self, old_since: float) -> tuple[Run, ...]:
        """Give those that still hold their records and came by `old_since`, by the loop's clock."""
        unparked = self._unparked.values()
        return tuple(takewhile(lambda run: run.in_memory_since <= old_since, unparked))

    def asked_to_park(self, run: Run) -> None:
        """Note that a run is being parked, ends, or cannot be parked: one need not ask again."""
        self._unparked.pop(run.key, None)
