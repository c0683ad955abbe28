"""What a lane knows: a fold of what its lanes committed, live and restored by the same code."""

from __future__ import annotations

from typing import Any

from millstream.middleware.base import AgentMiddleware
from millstream.middleware.layer_states import folding
from millstream.middleware.pipeline import MiddlewarePipeline
from millstream.schemas.base import Address, Event
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.control.migrations import RunMigration
from millstream.schemas.events import AgentResult, AttemptStarted, CostRecorded, Decision
from millstream.schemas.lane_events import ATTEMPTS_PER_GENERATION, LaneOpened, TopicReading
from millstream.schemas.runs.reservations import CallReserved
from millstream.schemas.sessions.states import LifecycleState, SessionState
from millstream.schemas.topics import (
    ATTEMPTS,
    COSTS,
    DECISIONS,
    LANES,
    RESERVATIONS,
    RESULTS,
)
from millstream.streams.lane.state.attempt_costs import OpenAttempts
from millstream.streams.lane.state.folds import (
    Begin,
    Fold,
    FoldList,
    Refold,
    SnapshotBody,
    Source,
    digest_of,
)
from millstream.streams.lane.state.journals import Journals
from millstream.streams.lane.state.requests import Requests, command_digest, record_digest
from millstream.streams.lane.state.seen_ids import SeenIds
from millstream.streams.lane.state.sessions.answers import SessionAnswers
from millstream.streams.lane.state.sessions.cancelled import CancelledSessions
from millstream.streams.lane.state.sessions.heads import SessionHeads
from millstream.streams.lane.state.sessions.places import SessionPlaces, place_of
from millstream.streams.lane.state.sessions.recent import SESSIONS_IN_MEMORY
from millstream.streams.lane.state.sessions.states import SessionStates
from millstream.streams.topic_settings.retention import Retention
from millstream.streams.wire.keys import RequestKey, SessionKey, session_key


class LaneState:
    """The folds of one partition's committed records for one stage of the chain.

    It holds the list of folds and lets others look into what they know. Committed events alone
    change it: `apply` folds one that was just committed, `restore` one that was read back. The
    exceptions are `park`, for events that another reader has read, and `waits_since_ms`.
    """

    seen: SeenIds
    """Finished requests, records that are dead letters, and commands that were carried out."""

    decided: dict[RequestKey, Decision]
    """Decisions on requests that are not finished, and not parked with their decision."""

    parked: dict[RequestKey, str | None]
    """What was asked, as a digest, of requests that are parked."""

    open_attempts: OpenAttempts
    """What attempts of unfinished requests count at, where they may cost."""

    journals: Journals
    """Where the journals of unfinished runs stand."""

    cancelled: CancelledSessions
    """Which sessions were cancelled, and until when."""

    session_places: SessionPlaces
    """Where the newest head and state of each session stand."""

    heads: SessionHeads
    """The newest committed checkpoint of each session in use."""

    session_states: SessionStates
    """What sessions in use are that somebody created or changed, or that have a time to live."""

    session_answers: SessionAnswers
    """What became of the newest commands on sessions."""

    waits_since_ms: int | None
    """Every request that was left unread arrived at or after it; `None` if there is none.

    The queue of those requests measures it. It only makes ids stay longer, and is in no digest.
    """

    def __init__(
        self,
        stage: str,
        pipeline: MiddlewarePipeline,
        *,
        hands_over: bool,
        seen: SeenIds | None = None,
        sessions_in_memory: int = SESSIONS_IN_MEMORY,
        retention: Retention | None = None,
        more: tuple[Fold, ...] = (),
    ) -> None:
        self.stage = stage
        self.pipeline = pipeline
        self.hands_over = hands_over
        self.waits_since_ms = None
        self._generation = _Generation(stage)
        self._requests = Requests(stage, hands_over, SeenIds() if seen is None else seen)
        self.seen = self._requests.seen
        self.decided = self._requests.decided
        self.parked = self._requests.parked
        self.open_attempts = OpenAttempts()
        self.journals = Journals()
        self.cancelled = CancelledSessions(retention)
        self.session_places = SessionPlaces(retention)
        self.heads = SessionHeads(sessions_in_memory)
        self.session_states = SessionStates(sessions_in_memory)
        self.session_answers = SessionAnswers()
        self.folds = FoldList(
            (
                self._generation.as_fold(),
                self.session_places.as_fold(),
                self.heads.as_fold(),
                self.session_states.as_fold(),
                self.journals.as_fold(is_kept=not hands_over),
                _layers(stage, pipeline),
                self._requests.as_fold(),
                self.open_attempts.as_fold(is_kept=not hands_over),
                self.cancelled.as_fold(),
                self.session_answers.as_fold(),
                *more,
            )
        )
        self._on_commit = self.folds.on_commit
        self._on_restore = self.folds.on_restore
        self._on_placed = self.folds.on_placed

    def restore(self, event: Event, offset: int) -> None:
        """Take in a committed record read back from a topic, where it stands at `offset`."""
        for fold in self._on_restore.get(type(event), ()):
            fold(event)
        for place in self._on_placed.get(type(event), ()):
            place(event, offset)

    def apply(self, event: Event, offset: int) -> None:
        """Take in a record that has just been committed, and stands at `offset`.

        Its pipeline side is folded already.
        """
        for fold in self._on_commit.get(type(event), ()):
            fold(event)
        for place in self._on_placed.get(type(event), ()):
            place(event, offset)

    def digest(self) -> str:
        """Give the digest of all that decides, in hex: 32 digits.

        It depends on no order of insertion, and not on whether the state was folded live, from a
        snapshot or from topics, once nothing is in flight: all that was submitted is committed,
        and what is parked was read. Compare states of one policy, stage and window only.

        Ids older than the window are not in it, though a state may forget them later. Two states
        may differ by the oldest ids once `dedup_ids_max` cuts the window short, and by heads and
        cancels that the broker's retention has removed meanwhile, which decide nothing any more.
        """
        return digest_of(self.digests())

    def digests(self) -> dict[str, str]:
        """Give the digest of each fold by its name: tells in what two states differ."""
        return self.folds.digests()

    @property
    def generation(self) -> int:
        """The number of the lane's newest announced owner, 0 before the first."""
        return self._generation.newest

    @property
    def reading(self) -> dict[str, TopicReading]:
        """Where the newest owner began to read its topics, as it told last."""
        return self._generation.reading

    @property
    def decided_until_ms(self) -> int:
        """The broker's time of the newest request that was decided on, 0 before the first."""
        return self._requests.decided_until_ms

    def has_at_hand(self, session: SessionKey) -> bool:
        """Tell whether all that the log says of a session's state and head is in memory."""
        return self.has_head_at_hand(session) and (
            session in self.session_states
            or self.session_places.state_offset(place_of(session)) is None
        )

    def has_head_at_hand(self, session: SessionKey) -> bool:
        """Tell whether a session's head, if it has one, is in memory."""
        return session in self.heads or self.session_places.head_offset(place_of(session)) is None

    def knows(self, session: SessionKey) -> bool:
        """Tell whether a session has a head or a state, in memory or not."""
        if session in self.heads or session in self.session_states:
            return True
        place = place_of(session)
        places = self.session_places
        return places.head_offset(place) is not None or places.state_offset(place) is not None

    def lifecycle(self, session: SessionKey) -> LifecycleState | None:
        """Give what a session is, `None` if nobody created or changed it."""
        state = self.session_states.get(session)
        if state is not None:
            return state.state
        return self.session_places.lifecycle(place_of(session))

    def changed_ms(self, session: SessionKey) -> int:
        """Give when a session's state was last changed, 0 if nobody created or changed it."""
        state = self.session_states.get(session)
        return self.session_places.changed_ms(place_of(session)) if state is None else state.at_ms

    def due_ms(self, state: SessionState) -> int | None:
        """Give when a session expires, `None` if it does not; its head need not be in memory."""
        key = session_key(state)
        if state.state != "open" or not (state.ttl.idle_s or state.ttl.total_s):
            return None
        head = self.heads.get(key)
        turned_ms = self.session_places.turned_ms(place_of(key)) if head is None else head.at_ms
        return state.due_ms(turned_ms)

    def attempt(self, tries: int) -> int:
        """Give the number of an attempt that follows `tries` of this owner's."""
        return self.generation * ATTEMPTS_PER_GENERATION + tries

    def park(self, key: RequestKey, asked: str | None, *, is_decided: bool = True) -> None:
        """Take in that a request is parked, as its `RunParked` does: for the reader of `parked`."""
        self._requests.park(key, asked, is_decided=is_decided)

    def waits_since(self, at_ms: int | None) -> None:
        """Hear when the oldest request arrived that is left unread; `None` if there is none."""
        self.waits_since_ms = at_ms

    def is_finished(self, key: RequestKey) -> bool:
        """Tell whether this stage is through with a request."""
        return self._requests.is_finished(key)

    def asked(self, key: RequestKey) -> str | None:
        """Give the digest of what was asked under a request's id before, `None` if unknown."""
        return self._requests.asked(key)

    def is_buried(self, address: Address) -> bool:
        """Tell whether a record is a dead letter."""
        return record_digest(address) in self.seen

    def is_obeyed(self, command: ControlCommand | RunMigration, source: Address) -> bool:
        """Tell whether a command, whose record first stood at `source`, was carried out."""
        return command_digest(command, source) in self.seen

    def out_of_order(self) -> None:
        """Take in what follows in the order of brokers' clocks: a result may be before its run."""
        self.seen.unsorted()
        self.open_attempts.out_of_order(self.is_finished)
        self.journals.out_of_order(self.is_finished)

    def in_order_of_time(self) -> None:
        """Put what was restored in the order in which it is forgotten; from now on all is live."""
        self.seen.sort()
        self.open_attempts.in_order()
        self.journals.in_order()

    def decided_up_to_ms(self, now_ms: int) -> int:
        """Give the time up to which all that came has been decided on.

        What comes next may be as old, however long nobody was there, and however long it was left.
        """
        up_to_ms = min(now_ms, self.decided_until_ms)
        return up_to_ms if self.waits_since_ms is None else min(up_to_ms, self.waits_since_ms)

    def forget_before(self, at_ms: int) -> None:
        """Forget the finished requests that are older than the window in which ids are one."""
        self.seen.forget_before(at_ms)


class _Generation:
    """The number of the newest owner that announced itself."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self.newest = 0
        self.reading: dict[str, TopicReading] = {}

    def as_fold(self) -> Fold:
        return Fold(
            name="generation",
            topics=(Source(LANES, Begin.WHOLE, follows_another=self._follows_another),),
            fold={LaneOpened: self._open},
            canonical=lambda: self.newest,
        )

    def _open(self, opened: LaneOpened) -> None:
        if opened.stage == self._stage:
            self.newest = max(self.newest, opened.generation)
            self.reading = opened.reading or {}

    def _follows_another(self, opened: LaneOpened) -> bool:
        return opened.stage == self._stage and opened.generation > 1


def _layers(stage: str, pipeline: MiddlewarePipeline) -> Fold:
    """Give the fold that is the pipeline's layers.

    Live, the pipeline folds an event when it makes it, before it is committed, so that the next
    decision sees it. So the layers' part of a snapshot is taken before the rest, and a commit that
    is refused leaves them ahead of the log until it is replaced.
    """

    def decided(decision: Decision) -> None:
        if decision.stage == stage:
            pipeline.fold(decision)

    ended: tuple[type[Event], ...] = (AttemptStarted, CallReserved, CostRecorded, AgentResult)
    following = (ATTEMPTS, RESERVATIONS, COSTS, RESULTS)

    states = pipeline.states
    folded_under = states.folded_under  # asked once: of many users it is a long text

    def state() -> dict[str, Any]:
        return {"layers": states.given(), "layers_folded_under": folded_under}

    def load(body: SnapshotBody) -> tuple[Refold, ...]:
        under = body.entries.get("layers_folded_under", {})
        anew = states.load(body.entries["layers"], under)
        return tuple(map(refold, anew))

    def refold(layer: AgentMiddleware) -> Refold:
        fold = folding(layer)

        def decided(decision: Decision) -> None:
            if decision.stage == stage:
                fold(decision)

        handlers = {kind: decided if kind is Decision else fold for kind in layer.folds}
        return Refold(layer.name, layer.history_ms, handlers)

    return Fold(
        name="layers",
        topics=tuple(Source(spec, Begin.WINDOW) for spec in (DECISIONS, *following)),
        fold={Decision: decided, **dict.fromkeys(ended, pipeline.fold)},
        entries=("layers",),
        state=state,
        load=load,
        canonical=pipeline.canonical,
        before_commit=True,
        follows=following if pipeline.needs else (),
    )
