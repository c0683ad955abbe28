"""What lanes write for themselves and for those after them: each event a frozen model.

An auditor may read them; what they say may change with the version.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from millstream.schemas.base import (
    AS_COUNT,
    AS_NUMBER,
    Address,
    Count,
    EpochMs,
    Event,
    Few,
    Frozen,
    Identifier,
    Lasting,
    Micros,
    Names,
    Reason,
    Tries,
    Usage,
    compound_key,
    require_one_target,
)
from millstream.schemas.events import Decision, RequestEvent, ResolvedRequest

GENERATION_MAX = 10**12
"""The highest number of an owner: one a second for 30,000 years. Attempts stay below 2^53."""

PRODUCERS_MAX = 64
"""Most producers that a lane's owner can have announced: eight times as many as may be set."""

STATE_PARTS_MAX = 1100
"""Most parts of a snapshot's state: as many as hold the largest that is written."""

Generation = Annotated[int, Field(ge=1, le=GENERATION_MAX), AS_NUMBER]
Producers = Annotated[int, Field(ge=0, le=PRODUCERS_MAX), AS_COUNT]


class StageRequest(Event):
    """A request that passed the layers before a cut in the chain, on its way to the next stage.

    `template_version` is the version that its run keeps, `None` where nobody said.
    """

    title: ClassVar[str] = "A request between two stages of the chain"

    type: Literal["stage"] = "stage"
    stage: str
    passed: Names
    request: ResolvedRequest
    reserved_micros: Micros = 0
    template_version: str | None = None

    @property
    def event_id(self) -> str:
        """The request id and the stage it goes to."""
        return f"{self.request.request_id}:{self.stage}"


class AnswerRepair(Frozen):
    """An answer that does not fit its schema, and what is wrong with it: what a model is told.

    Both are bounded: up to 4,096 bytes and 500 characters. `answer` is empty where there was none.
    """

    answer: str = ""
    problem: str


class TemplateWait(Frozen):
    """A run waits until its partition's owner has its template: `version`, `None`: any.

    A lane that lacked it took the request in hand at `since_ms`, by its own clock. `tools` are
    those that the run has called, of a template that is there without them.
    """

    template: Identifier
    version: str | None = None
    tools: Names = ()
    since_ms: EpochMs


class RunParked(RequestEvent):
    """A request that waits, whole: the record that asked for it need not be kept.

    Kept compacted by request, with a tombstone once it has ended; what is left is what a new owner
    takes over. `order` is the offset of its record on the lane's input topic: runs of a session go
    in this order. `reserved_micros` is what all stages of the chain reserved for it. `tries` counts
    the attempts begun, `failures` those in vain, `spent` is what these used, and `spent_on` what
    tools' models did by their names, that nobody was charged for yet; `failure` is why the newest
    failed. It is not begun again before `not_before_ms`. Where its template limits a request's
    time, `elapsed_ms` is how long it has been under way; while it is, `since_ms` is that long ago
    instead. `effects` are the tools with an effect that it called. `repairs` counts the answers
    that its model is to give anew since they do not fit their schema, `repair` is the newest.

    `journal_from` is where the first record of its journal stands, or an offset before it, and
    `journal_from_ms` when that was written, 0 where nobody said; it had `journal_steps` steps.
    `renewed_ms` is when its journal was last written anew, since it waits for so long.

    `template_version` is the version of its template that its run keeps, `waits_for` the template
    that its owner lacks. A request that is `undecided` waits for its template so: it is decided on
    once that is there, and its `decision` here, a refusal, is what stands if it never comes.
    """

    title: ClassVar[str] = "A request that waits"

    type: Literal["parked"] = "parked"
    request: ResolvedRequest
    decision: Decision
    undecided: bool = False
    template_version: str | None = None
    waits_for: TemplateWait | None = None
    order: Count
    reserved_micros: Micros = 0
    tries: Tries = 0
    failures: Tries = 0
    spent: Usage = Usage()
    spent_on: Annotated[dict[str, Usage], Few] = Field(default_factory=dict)
    failure: Reason | None = None
    not_before_ms: EpochMs = 0
    elapsed_ms: Lasting = 0
    since_ms: EpochMs = 0
    effects: Names = ()
    repairs: Tries = 0
    repair: AnswerRepair | None = None
    journal_from: Count | None = None
    journal_from_ms: EpochMs = 0
    journal_steps: Tries = 0
    renewed_ms: EpochMs | None = None

    @property
    def event_id(self) -> str:
        """The request id, its tries, since when it is under way, and when it was parked."""
        undecided = ":undecided" * self.undecided
        told = f"{self.request_id}:parked:{self.tries}:{self.since_ms}:{self.at_ms}{undecided}"
        return told if self.renewed_ms is None else f"{told}:renewed:{self.renewed_ms}"

    @property
    def decided(self) -> Decision | None:
        """What was decided on the request, `None` where nothing was yet."""
        return None if self.undecided else self.decision

    @property
    def record_key(self) -> str:
        """Tenant, user and request id."""
        return compound_key(self.tenant, self.user_id, self.request_id)


class HoldPlaced(Event):
    """A request, or a session, is paused: no run of it begins until it is resumed.

    Kept compacted, with a tombstone once it is resumed or has ended. Names one of the two.
    """

    title: ClassVar[str] = "A request or a session is paused"

    type: Literal["hold"] = "hold"
    request_id: Identifier | None = None
    session_id: Identifier | None = None

    @model_validator(mode="after")
    def _names_one_target(self) -> Self:
        require_one_target(self.request_id, self.session_id)
        return self

    @property
    def event_id(self) -> str:
        """The target, a request or a session, and when it was paused."""
        target = f"r:{self.request_id}" if self.request_id else f"s:{self.session_id}"
        return f"{target}:hold:{self.at_ms}"

    @property
    def record_key(self) -> str:
        """Tenant, user, and the request or the session."""
        target = ("r", self.request_id) if self.request_id is not None else ("s", self.session_id)
        return compound_key(self.tenant, self.user_id, *map(str, target))


class RequestsDeferred(Event):
    """A user's requests are left where they stand: so many of theirs wait already.

    All of the user's from `from_offset` on, on this partition of the topic `input`, are yet to be
    taken in, though their records are acknowledged; none of them came before `from_ms`, by the
    broker's time. Kept compacted, with a tombstone once all are.
    """

    title: ClassVar[str] = "A user's requests are left where they stand"

    type: Literal["deferred"] = "deferred"
    input: str
    from_offset: Count
    from_ms: EpochMs = 0

    @property
    def event_id(self) -> str:
        """The topic, and from where on."""
        return f"{self.input}:deferred:{self.from_offset}"

    @property
    def record_key(self) -> str:
        """The topic, tenant and user."""
        return compound_key(self.input, self.tenant, self.user_id)


class CommandObeyed(Event):
    """A command that was carried out, committed with its effect: come again, it is passed over.

    `source` is where the command's record first stood. Of a session's cancel `until_ms` is the
    broker's time of the command: what arrived for the session no later ends when its turn comes.
    `was_paused` is told of a resume: whether there was a pause to take back; `had_ended` of a
    request's pause: whether its result was there, or on its way, so that nothing waits.
    """

    title: ClassVar[str] = "A command was carried out"

    type: Literal["obeyed"] = "obeyed"
    command: Literal["cancel", "pause", "resume"]
    request_id: Identifier | None = None
    session_id: Identifier | None = None
    until_ms: EpochMs | None = None
    source: Address
    was_paused: bool | None = None
    had_ended: bool | None = None

    @property
    def event_id(self) -> str:
        """Where the command first stood."""
        return f"{self.source}:obeyed"


class TopicReading(Frozen):
    """Where owners of a partition began to read a topic, and what was read when the last was lost.

    So many `openings` in a row began at the record `begins`. From the third on, records are read
    one by one: `alone` is the one that is being read, and so many `deaths` were met at it before
    anything of it was committed, this reading included.
    """

    begins: Count
    openings: Tries
    alone: Count | None = None
    deaths: Tries = 0


class LaneOpened(Event):
    """A new owner of a partition. Its `generation` is one more than its predecessor's.

    Every attempt of this owner is numbered from `generation * ATTEMPTS_PER_GENERATION`, so that a
    later owner's attempts are the higher ones. It writes with `producers` transactional producers,
    all of which the next owner has to fence; 0 where that was not recorded. It is written again as
    the owner begins to read: `reading` says by topic, without the namespace, where. `policy_digest`
    stands for the policy that the owner goes by, `None` where that was not recorded.
    """

    title: ClassVar[str] = "A worker took over a partition"

    type: Literal["lane"] = "lane"
    user_id: Identifier = "millstream"
    stage: str
    partition: Count
    generation: Generation
    worker: str
    producers: Producers = 0
    reading: Annotated[dict[str, TopicReading], Few] | None = None
    policy_digest: str | None = None

    @property
    def event_id(self) -> str:
        """Stage, partition and generation, and what it tells of its reading."""
        told = [f"{self.stage}:{self.partition}:{self.generation}"]
        for topic, one in sorted((self.reading or {}).items()):
            told.append(f"{topic}:{one.begins}:{one.openings}:{one.alone}:{one.deaths}")
        return ":".join(told)

    @property
    def record_key(self) -> str:
        """The stage: the record's partition is the lane's own."""
        return self.stage


ATTEMPTS_PER_GENERATION = 1000
"""The most attempts that one owner makes at a request, so that the next one's are higher."""


class SnapshotHeader(Frozen):
    """What makes a snapshot whole, and what comes after it.

    `logs`: for each topic, from which offset of its partition on the snapshot does not know it.
    `state_parts`: in how many parts its state stands, and `state_digest` of them joined. `chunks`:
    number, how many of its last ids count, and digest, of each chunk of ids, the oldest first.
    `folded_under` stands for all that it was taken under, and is all that earlier versions look at.
    Of what later ones look at, `base` stands for the format and the stage: one taken under another
    is not used. `layers` stands for what each layer went by, under its name: a layer that goes by
    something else may have to be folded anew. `dedup_window_s` and `dedup_ids_max` are for how long
    ids were remembered, in seconds, and how many at most. Each is `None` in earlier versions'.
    """

    logs: Annotated[dict[str, Count], Few]
    state_parts: Annotated[int, Field(ge=1, le=STATE_PARTS_MAX), AS_NUMBER]
    state_digest: str
    chunks: Annotated[tuple[tuple[Count, Count, str], ...], Few]
    folded_under: str
    base: str | None = None
    layers: dict[str, str] | None = None
    dedup_window_s: Count | None = None
    dedup_ids_max: Count | None = None


class LaneSnapshot(Event):
    """A part of what the lane of a partition knows, so that a later owner need not read it all.

    `part` is `header`, `state-<n>` or `ids-<n>`; `data` is the part's bytes in base64. The parts of
    one snapshot are written in one transaction, the header last.
    """

    title: ClassVar[str] = "A part of what a lane knows"

    type: Literal["snapshot"] = "snapshot"
    user_id: Identifier = "millstream"
    stage: str
    partition: Count
    generation: Generation
    part: str
    header: SnapshotHeader | None = None
    data: str | None = None

    @property
    def event_id(self) -> str:
        """Stage, partition, part, and when it was taken."""
        return f"{self.stage}:{self.partition}:{self.part}:{self.generation}:{self.at_ms}"

    @property
    def record_key(self) -> str:
        """Stage and part: the record's partition is the lane's own."""
        return compound_key(self.stage, self.part)
