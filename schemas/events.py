"""What upstreams, products and auditors read and write: each event a frozen model."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from millstream.schemas.base import (
    INT64_MAX,
    Address,
    Count,
    EpochMs,
    Event,
    Frozen,
    FrozenDict,
    Identifier,
    Metadata,
    Micros,
    Names,
    Ordinal,
    Reason,
    Tries,
    Usage,
    compound_key,
)
from millstream.schemas.content import Content, digest_of

DEFAULT_TEMPLATE = "chat_agent"

UNPRICED = "unpriced"
"""Stands for the price digest where no table knew the model: its cost of 0 is a gap."""

ResultStatus = Literal["completed", "failed", "rejected", "cancelled", "expired", "interrupted"]
"""How a request can end; each accepted request ends in exactly one of these."""

FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "error", "unknown"]
"""How an answer ended, as the model's provider tells it; `unknown`: it does not say."""


class AgentRequest(Event):
    """A request to an agent.

    `user_id` and `input` must be given, and no key twice. `content` is what the model is told after
    `input`, of kinds that it takes: LangChain's standard blocks of text, images, files and audio;
    `input` may be empty then. What is left out gets a default when the record is read: `request_id`
    becomes `<topic>-<partition>-<offset>` of the record, `session_id` the request id (a
    conversation of its own, which ends with its answer), `template` is `chat_agent`, `tenant` is
    `default`. `expected_turn` is the turn that it believes to be the session's newest: 0 for a
    session without one.
    """

    title: ClassVar[str] = "A request to an agent"

    type: Literal["request"] = "request"
    input: str
    content: Content | None = None
    request_id: Identifier | None = None
    session_id: Identifier | None = None
    template: Identifier = DEFAULT_TEMPLATE
    model: Identifier | None = None
    deadline_ms: EpochMs | None = None
    expected_turn: Count | None = None
    metadata: Metadata = Field(default_factory=FrozenDict)

    @property
    def event_id(self) -> str:
        """The request id, empty while nobody has given one."""
        return self.request_id or ""

    def resolved(self, address: Address, at_ms: int) -> ResolvedRequest:
        """Fill in what the upstream left out, from the record's own address and broker time."""
        request_id = self.request_id or str(address)
        given = self.__dict__ | {
            "request_id": request_id,
            "session_id": self.session_id or request_id,
            "is_sessionless": self.session_id is None or None,
            "at_ms": at_ms,
            "source": address,
        }
        return ResolvedRequest.model_construct(**given)


class ResolvedRequest(AgentRequest):
    """A request as it is worked on: with its ids, the broker's time and where it first stood.

    `is_sessionless`: its upstream gave no session, so no conversation is kept; else it is left out.
    """

    request_id: Identifier
    session_id: Identifier
    is_sessionless: bool | None = None
    source: Address

    @property
    def digest(self) -> str:
        """What is asked, in 16 hex digits: template, model, session, input and content.

        Not the deadline and the metadata: an upstream that asks again may change them.
        """
        # Only the input, which comes last, may hold the separator.
        asked = f"{self.template}\x1f{self.model or ''}\x1f{self.session_id}\x1f{self.input}"
        return digest_of(asked, self.content)


class Origin(Frozen):
    """Where a request first arrived, and when, kept when it is put at its user's home partition."""

    source: Address
    at_ms: EpochMs | None = None


class Redriven(Origin):
    """Which buried record was put back as this one; `source` is where the request first arrived."""

    buried: Address


class RequestEvent(Event):
    """An event that concerns one request of one session."""

    request_id: Identifier
    session_id: Identifier


class AgentToken(RequestEvent):
    """A piece of an answer as it is written.

    (`request_id`, `attempt`, `seq`) name it; `seq` counts these records from 0 within an attempt,
    without a gap. `tokens` is the number of model tokens in `text`. A higher attempt supersedes
    the text of every lower one; one that follows a lower one announces itself at once, by a first
    record (`seq` 0) whose `text` is empty and whose `tokens` is 0.
    """

    title: ClassVar[str] = "A piece of an answer as it is written"

    type: Literal["token"] = "token"
    attempt: Count
    seq: Count
    text: str
    tokens: Count = 1

    @property
    def event_id(self) -> str:
        """Request, attempt and sequence number."""
        return f"{self.request_id}:{self.attempt}:{self.seq}"


class AgentResult(RequestEvent):
    """The one terminal result of a request.

    `output` is the whole text of attempt `attempt`; `last_seq` the sequence number of its last
    token record (-1: none) and `text_sha256` the hash of that text in UTF-8. `usage` and
    `cost_micros` are those of all attempts, as their cost records say. Times are in milliseconds
    since the epoch; `accepted_at_ms` is the broker's for the request.

    `finish_reason` says how the last model call of the attempt ended: an output that ended by
    `length` or `content_filter` is not whole. `reasoning` is what the model let be seen of its
    thoughts, up to 65,536 bytes of it: no part of `output`, nor of the token records. `steps` is
    the number of the attempt's records on the topic `steps`, left out where it has none there.
    `turn` is the session's turn that the run made, left out where it made none.
    """

    title: ClassVar[str] = "The one terminal result of a request"

    type: Literal["result"] = "result"
    status: ResultStatus
    output: str | None = None
    structured: dict[str, Any] | None = None
    reason: Reason | None = None
    template: str = DEFAULT_TEMPLATE
    template_version: str | None = None
    model: str | None = None
    attempt: Count = 0
    last_seq: Annotated[int, Field(ge=-1, le=INT64_MAX)] = -1
    text_sha256: str | None = None
    finish_reason: FinishReason | None = None
    reasoning: str | None = None
    steps: Count | None = None
    turn: Count | None = None
    usage: Usage = Usage()
    cost_micros: Micros = 0
    source: Address
    accepted_at_ms: EpochMs
    started_at_ms: EpochMs | None = None
    first_token_at_ms: EpochMs | None = None
    metadata: Metadata = Field(default_factory=FrozenDict)

    @property
    def event_id(self) -> str:
        """The request id: there is one result."""
        return f"{self.request_id}:result"


class Decision(RequestEvent):
    """What the middleware decided on a request; `at_ms` is the broker's time of the request.

    `stage` names the part of the chain that decided, `chain` where it is not cut; `passed` are the
    layers that let the request through, `layer` the one that did not. `request_digest` stands for
    what was asked (template, model, session, input, content), so that the same request id with
    something else is found out. `template_version` is the version that the request's run keeps,
    `None` where there is no run, or the decision is older than versions.
    """

    title: ClassVar[str] = "What the middleware decided on a request"

    type: Literal["decision"] = "decision"
    stage: str = "chain"
    admitted: bool
    layer: str | None = None
    reason: Reason | None = None
    passed: Names = ()
    template: str = DEFAULT_TEMPLATE
    template_version: str | None = None
    reserved_micros: Micros = 0
    request_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    generation: Count
    source: Address

    @property
    def event_id(self) -> str:
        """The request id and the stage: each stage of the chain decides once."""
        return f"{self.request_id}:decision:{self.stage}"


class AttemptStarted(RequestEvent):
    """An attempt that may cost or have an effect, committed before its first call.

    A run that costs nothing has none. `reserved_micros` is the most that the attempt may cost,
    `usage_max` the usage that this was taken from, `price_digest` names the prices. The `spent`
    fields are what the request's earlier attempts count at, `lost` how many of them ended with
    their owners and left no step. `calls_max` is how many model calls `usage_max` stands for, 0
    where nobody said; what the attempt does is on its journal if it `journals`. `at_ms` is the
    broker's time of the request.
    """

    title: ClassVar[str] = "An attempt that may cost is about to begin"

    type: Literal["attempt"] = "attempt"
    attempt: Count
    model: str
    template: str = DEFAULT_TEMPLATE
    usage_max: Usage
    reserved_micros: Micros
    price_digest: str
    spent_usage: Usage = Usage()
    spent_micros: Micros = 0
    lost: Tries = 0
    calls_max: Tries = 0
    journals: bool = False

    @property
    def event_id(self) -> str:
        """Request and attempt."""
        return f"{self.request_id}:{self.attempt}:attempt"


class CostRecorded(RequestEvent):
    """What a model call of an attempt cost.

    `call` counts the records of one attempt from 0, in the order in which its model calls ended,
    those of tools too; every `AttemptStarted` has one. `calls` is how many model calls it stands
    for: more than 1 in an attempt of very many, 0 where nobody knows or none was made.

    `price_digest` names the prices. `estimated`: not all was reported in a way that can be true; it
    is estimated from what was sent and received, or is the most that was reserved, as of a lost
    attempt: `estimate_reason` says why. `at_ms` is the request's broker time.
    """

    title: ClassVar[str] = "What a model call of an attempt cost"

    type: Literal["cost"] = "cost"
    model: str
    usage: Usage
    cost_micros: Micros
    price_digest: str
    estimated: bool = False
    estimate_reason: str | None = None
    template: str = DEFAULT_TEMPLATE
    attempt: Count = 0
    call: Count = 0
    calls: Tries = 0

    @property
    def event_id(self) -> str:
        """Request, attempt, the record's number behind the first one, and model."""
        number = f"{self.attempt}.{self.call}" if self.call else f"{self.attempt}"
        # Model and request may both hold colons: so that no two of either read alike.
        model = self.model.replace("%", "%25").replace(":", "%3A")
        return f"{self.request_id}:{number}:cost:{model}"


class CheckpointSaved(RequestEvent):
    """The state of a session after a run: a LangGraph checkpoint.

    `data` is the base64 of what `encoding` names. `turn` counts the session's runs from 1.
    `renewed_ms` stands on a copy, which has the id of the record before: a run waits that goes on
    from it, and retention is about to remove it. It says when the copy was written.
    """

    title: ClassVar[str] = "The state of a session after a run"

    type: Literal["checkpoint"] = "checkpoint"
    checkpoint_id: str
    parent_id: str | None = None
    turn: Ordinal = 1
    encoding: Literal["langgraph+msgpack"] = "langgraph+msgpack"
    data: str
    renewed_ms: EpochMs | None = None

    @property
    def event_id(self) -> str:
        """Session and checkpoint."""
        return f"{self.session_id}:{self.checkpoint_id}"


class SessionUpdated(RequestEvent):
    """The head of a session: which checkpoint is its newest, and from which offset to look for it.

    Kept compacted by session, so that a lane knows every session's newest committed checkpoint
    whatever the length of the log.
    """

    title: ClassVar[str] = "The head of a session"

    type: Literal["session"] = "session"
    checkpoint_id: str
    checkpoint_offset_min: Count
    turn: Ordinal
    created_at_ms: EpochMs
    checkpoint_digest: str | None = None
    """Stands for what the checkpoint holds: a copy from elsewhere that differs is not the one."""
    checkpoint_bytes: Count | None = None
    template: str | None = None
    cost_micros: Micros = 0
    """What all of its turns cost, since heads tell it."""

    @property
    def event_id(self) -> str:
        """Session and checkpoint."""
        return f"{self.session_id}:{self.checkpoint_id}:head"

    @property
    def record_key(self) -> str:
        """Tenant, user and session."""
        return compound_key(self.tenant, self.user_id, self.session_id)
