"""Which records a stage is through with, and which of its requests are still open."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from millstream.schemas.base import Address
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.control.migrations import RunMigration, RunMigrationAnswered
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.lane_events import CommandObeyed, RunParked, StageRequest
from millstream.schemas.topics import (
    DEAD_LETTERS,
    DECISIONS,
    OBEYED,
    RESULTS,
    RUN_MIGRATION_ANSWERS,
)
from millstream.streams.lane.state.folds import Begin, Fold, Refold, SnapshotBody, Source
from millstream.streams.lane.state.ids.digests import NOBODY, users_id
from millstream.streams.lane.state.seen_ids import SeenIds, unsealed
from millstream.streams.wire.keys import RequestKey, request_key

IDS = "ids"
"""Names the ids in what is folded anew."""


@dataclass(slots=True)
class Requests:
    """The requests of one stage, from their decision until their ids are forgotten: a fold."""

    stage: str
    hands_over: bool
    """Whether the stage is through with a request that it decided on."""

    seen: SeenIds
    """Finished requests, records that are dead letters, and commands that were carried out."""

    decided: dict[RequestKey, Decision] = field(default_factory=dict)
    """Decisions on requests that are not finished, and not parked with their decision."""

    parked: dict[RequestKey, str | None] = field(default_factory=dict)
    """What was asked, as a digest, of requests that are parked: their records hold the rest.

    One may be in `decided` as well: it was parked before it was decided on.
    """

    decided_until_ms: int = 0
    """The broker's time of the newest request that was decided on."""

    def as_fold(self) -> Fold:
        """Give what the list is told of it.

        A hand-over (`StageRequest`) is folded live only: restored, its decision says the same.
        So is `RunParked`: the queue reads `parked` when it opens, and calls `park` for each.
        """
        topics = (DECISIONS, RESULTS, OBEYED, DEAD_LETTERS, RUN_MIGRATION_ANSWERS)
        return Fold(
            name="requests",
            topics=tuple(Source(spec, Begin.WINDOW) for spec in topics),
            fold={
                Decision: self._decide,
                AgentResult: self._end,
                StageRequest: self._hand_over,
                DeadLetter: self._see,
                CommandObeyed: self._see,
                RunMigrationAnswered: self._see,
                RunParked: self._park,
            },
            entries=("decided", "parked", "open_user_ids", "id_gaps"),
            state=self._state,
            load=self._load,
            canonical=self._canonical,
        )

    def is_finished(self, key: RequestKey) -> bool:
        """Tell whether this stage is through with a request."""
        return users_id(*key) in self.seen

    def asked(self, key: RequestKey) -> str | None:
        """Give the digest of what was asked under a request's id before, `None` if unknown."""
        decided = self.decided.get(key)
        if decided is not None:
            return decided.request_digest
        body = self.seen.body(users_id(*key))
        return None if body is None else f"{body:016x}"

    def park(self, key: RequestKey, asked: str | None, *, is_decided: bool = True) -> None:
        """Take in that a request is parked: its record there carries the decision, if any."""
        if is_decided:
            self.decided.pop(key, None)
        self.parked[key] = asked

    def _decide(self, decision: Decision) -> None:
        if decision.stage != self.stage:
            return
        key = request_key(decision)
        self.decided_until_ms = max(self.decided_until_ms, decision.at_ms)
        if self.hands_over or not decision.admitted:
            self._finish(key, decision.at_ms, decision.request_digest, ran=decision.admitted)
        elif not self.is_finished(key):
            self.decided[key] = decision
        elif decision.request_digest is not None and self.asked(key) is None:
            # Its result was read first, since brokers' clocks differ: that did not say what it was.
            self.seen.add(users_id(*key), 0, int(decision.request_digest, 16), ran=False)

    def _end(self, result: AgentResult) -> None:
        self._finish(request_key(result), result.at_ms, ran=result.status != "rejected")

    def _hand_over(self, staged: StageRequest) -> None:
        if staged.stage != self.stage:
            self._finish(request_key(staged.request), staged.at_ms)

    def _see(self, event: DeadLetter | CommandObeyed | RunMigrationAnswered) -> None:
        ran = not isinstance(event, DeadLetter)
        self.seen.add(_record_digest(event), event.at_ms, ran=ran)

    def _park(self, event: RunParked) -> None:
        asked = event.decision.request_digest
        self.park(request_key(event), asked, is_decided=not event.undecided)

    def _finish(
        self, key: RequestKey, at_ms: int, asked: str | None = None, *, ran: bool = True
    ) -> None:
        decided = self.decided.pop(key, None)
        if decided is not None:
            asked = decided.request_digest
        asked = self.parked.pop(key, None) or asked
        self.seen.add(users_id(*key), at_ms, None if asked is None else int(asked, 16), ran=ran)

    def _state(self) -> dict[str, Any]:
        return {
            "decided": tuple(self.decided.values()),
            "parked": tuple(self.parked.items()),
            # By another name than before ids named their user: such a snapshot is not used.
            "open_user_ids": self.seen.open_data,
            "again_ids": self.seen.again_data,
            "id_gaps": self.seen.gaps,
            "ids_since_ms": self.seen.since_ms,
            "ids_lost_ms": self.seen.lost_ms,
            "ids_forgotten_ms": self.seen.forgotten_ms,
            "decided_until_ms": self.decided_until_ms,
        }

    def _load(self, body: SnapshotBody) -> tuple[Refold, ...]:
        entries = body.entries
        for each in entries["decided"]:
            decision = Decision.model_validate(each)
            self.decided[request_key(decision)] = decision
        for (tenant, user_id, request_id), asked in entries["parked"]:
            self.park((tenant, user_id, request_id), asked, is_decided=False)
        # What snapshots of earlier versions do not tell may be missing.
        self.decided_until_ms = entries.get("decided_until_ms", 0)
        open_ids, again_ids = (
            base64.b64decode(entries.get(name, ""), validate=True)
            for name in ("open_user_ids", "again_ids")
        )
        gaps = {
            number: base64.b64decode(told, validate=True)
            for number, told in entries["id_gaps"].items()
        }
        since_ms, lost_ms = entries.get("ids_since_ms", 0), entries.get("ids_lost_ms")
        complete_ms = max(since_ms, 0 if lost_ms is None else lost_ms + 1)
        if body.ids_since_ms is None or body.ids_since_ms >= complete_ms:
            self.seen.lost_ms = lost_ms
            self.seen.forgotten_ms = entries.get("ids_forgotten_ms")
            self.seen.load(body.chunks, open_ids, again_ids, since_ms, gaps)
            return ()
        # What is older stands before the sealed ones: they are in no order until all is sorted.
        self.seen.load((), unsealed(body.chunks, open_ids, again_ids, gaps))
        before = Requests(self.stage, self.hands_over, self.seen)
        return (Refold(IDS, body.history_ms, before.as_fold().fold),)

    def _canonical(self) -> Any:
        return {
            "decided": [self.decided[key] for key in sorted(self.decided)],
            "parked": sorted(self.parked.items()),
            "decided_until_ms": self.decided_until_ms,
            "seen": self.seen.canonical_data,
        }


def _record_digest(event: DeadLetter | CommandObeyed | RunMigrationAnswered) -> int:
    if not isinstance(event, DeadLetter):
        return command_digest(event, event.source)
    return record_digest(event.source)


def record_digest(source: Address) -> int:
    """Give the digest that a dead letter is known by, of a record that stood at `source`."""
    return users_id(*NOBODY, str(source))


def command_digest(
    event: ControlCommand | CommandObeyed | RunMigration | RunMigrationAnswered, source: Address
) -> int:
    """Give the digest that a command is known by, whose record first stood at `source`."""
    # With the user's name: a header says where a command first stood, and anybody may write it.
    return users_id(event.tenant, event.user_id, "command", str(source))
