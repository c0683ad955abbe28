"""What a lane knows: a fold of what its lanes committed, live and restored by the same code."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from millstream.middleware.pipeline import MiddlewarePipeline
from millstream.schemas.base import Address, Event
from millstream.schemas.events import (
    AgentResult,
    AttemptStarted,
    ControlCommand,
    CostRecorded,
    DeadLetter,
    Decision,
    SessionUpdated,
)
from millstream.schemas.lane_events import (
    ATTEMPTS_PER_GENERATION,
    CommandObeyed,
    LaneOpened,
    RunParked,
    StageRequest,
)
from millstream.schemas.topics import SESSIONS
from millstream.streams.lane.state.attempt_costs import OpenAttempts
from millstream.streams.lane.state.cancelled_sessions import CancelledSessions
from millstream.streams.lane.state.seen_ids import SeenIds, id_digest
from millstream.streams.wire.keys import RequestKey, SessionKey, request_key, session_key


@dataclass(slots=True)
class LaneState:
    """The fold of one partition's committed records for one stage of the chain.

    `seen`: requests that this stage is through with, records that are dead letters, and commands
    that were carried out; `decided`:
    decisions on requests that are not finished, but for those that are `parked`, of which the
    digests are kept; `bills`: what attempts of unfinished requests count at, where they may cost;
    `cancelled`: which sessions were, and until when;
    `heads`: each session's newest committed checkpoint; `decided_until_ms`: the broker's time of
    the newest request that was decided on; `waits_since_ms`: none that was left unread came before
    that, `None` if there is none.
    """

    stage: str
    pipeline: MiddlewarePipeline
    hands_over: bool
    generation: int = 0
    decided_until_ms: int = 0
    waits_since_ms: int | None = None
    seen: SeenIds = field(default_factory=SeenIds)
    decided: dict[RequestKey, Decision] = field(default_factory=dict)
    parked: dict[RequestKey, str | None] = field(default_factory=dict)
    open_attempts: OpenAttempts = field(default_factory=OpenAttempts)
    cancelled: CancelledSessions = field(default_factory=CancelledSessions)
    heads: OrderedDict[SessionKey, SessionUpdated] = field(default_factory=OrderedDict)

    def restore(self, event: Event) -> None:
        """Take in a committed record read back from a topic."""
        match event:
            case LaneOpened() if event.stage == self.stage:
                self.generation = max(self.generation, event.generation)
            case Decision() if event.stage == self.stage:
                self.pipeline.fold(event)
            case AttemptStarted() | CostRecorded() | AgentResult():
                self.pipeline.fold(event)
            case _:
                pass
        self.apply(event)

    def apply(self, event: Event) -> None:
        """Take in a record that has just been committed; its pipeline side is folded already."""
        if not self.hands_over:
            self.open_attempts.fold(event)
        match event:
            case Decision() if event.stage == self.stage:
                key = request_key(event)
                self.decided_until_ms = max(self.decided_until_ms, event.at_ms)
                if self.hands_over or not event.admitted:
                    self._finish(key, event.at_ms, event.request_digest)
                elif not self.is_finished(key):
                    self.decided[key] = event
            case AgentResult():
                self._finish(request_key(event), event.at_ms)
            case StageRequest() if event.stage != self.stage:
                self._finish(request_key(event.request), event.at_ms)
            case DeadLetter() | CommandObeyed():
                self.seen.add(_record_digest(event), event.at_ms)
                self.cancelled.fold(event)
            case RunParked():
                self.park(request_key(event), event.decision.request_digest)
            case SessionUpdated():
                self._move_head(event)
            case _:
                pass

    def attempt(self, tries: int) -> int:
        """Give the number of an attempt that follows `tries` of this owner's."""
        return self.generation * ATTEMPTS_PER_GENERATION + tries

    def park(self, key: RequestKey, asked: str | None) -> None:
        """Take in that a request is parked: its record there carries the decision."""
        self.decided.pop(key, None)
        self.parked[key] = asked

    def is_finished(self, key: RequestKey) -> bool:
        """Tell whether this stage is through with a request."""
        return id_digest(*key) in self.seen

    def asked(self, key: RequestKey) -> str | None:
        """Give the digest of what was asked under a request's id before, `None` if unknown."""
        decided = self.decided.get(key)
        if decided is not None:
            return decided.request_digest
        body = self.seen.body(id_digest(*key))
        return None if body is None else f"{body:016x}"

    def is_buried(self, address: Address) -> bool:
        """Tell whether a record is a dead letter."""
        return id_digest(str(address)) in self.seen

    def is_obeyed(self, command: ControlCommand, source: Address) -> bool:
        """Tell whether a command, whose record first stood at `source`, was carried out."""
        return _command_digest(command, source) in self.seen

    def out_of_order(self) -> None:
        """Take in what follows topic by topic: what is first may be newer than what comes last."""
        self.seen.unsorted()

    def in_order_of_time(self) -> None:
        """Put what was restored topic by topic in the order in which it is forgotten."""
        self.seen.sort()

    def decided_up_to_ms(self, now_ms: int) -> int:
        """Give the time up to which all that came has been decided on.

        What comes next may be as old, however long nobody was there, and however long it was left.
        """
        up_to_ms = min(now_ms, self.decided_until_ms)
        return up_to_ms if self.waits_since_ms is None else min(up_to_ms, self.waits_since_ms)

    def forget_before(self, at_ms: int) -> None:
        """Forget the finished requests that are older than the window in which ids are one."""
        self.seen.forget_before(at_ms)

    def _move_head(self, head: SessionUpdated) -> None:
        key = session_key(head)
        self.heads[key] = head
        self.heads.move_to_end(key)
        # Its checkpoint is gone, or about to be: the session would begin anew in any case.
        since_ms = head.at_ms - (SESSIONS.retention_ms or 0)
        while next(iter(self.heads.values())).at_ms < since_ms:
            self.heads.popitem(last=False)

    def _finish(self, key: RequestKey, at_ms: int, asked: str | None = None) -> None:
        decided = self.decided.pop(key, None)
        if decided is not None:
            asked = decided.request_digest
        asked = self.parked.pop(key, asked)
        self.seen.add(id_digest(*key), at_ms, None if asked is None else int(asked, 16))


def _record_digest(event: DeadLetter | CommandObeyed) -> int:
    if isinstance(event, CommandObeyed):
        return _command_digest(event, event.source)
    return id_digest(str(event.source))


def _command_digest(event: ControlCommand | CommandObeyed, source: Address) -> int:
    # With the user's name: a header says where a command first stood, and anybody may write it.
    return id_digest(event.tenant, event.user_id, "command", str(source))
