"""The journal of a run: each finished call, and each call with an effect before it is made.

A record is one fact. Records of a run are numbered, so that it is known whether all are there; a
call is never told by its number, but by its own id.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from millstream.schemas.base import (
    AS_COUNT,
    TRIES_MAX,
    CallUsage,
    Count,
    EpochMs,
    Few,
    Frozen,
    Micros,
    Names,
)
from millstream.schemas.events import RequestEvent

__all__ = ["PARTS_MAX", "JournalKind", "JournalStep", "RunBegan"]

JournalKind = Literal["answered", "beside", "intent", "done", "repair", "moved"]
"""The kinds of facts that this version writes and reads."""

PARTS_MAX: Final = 16


class RunBegan(Frozen):
    """With what a run began: its template and version, and the checkpoint that it goes on from.

    `tools` are those of the template that were there then. `answer_schema` is a digest of what its
    answer has to fit, `""`: nothing; left out by those who did not tell. Of one that was moved,
    `moved_from` is the version before.
    """

    template: str
    template_version: str | None = None
    moved_from: str | None = None
    tools: Names = ()
    base_checkpoint_id: str | None = None
    answer_schema: str | None = None

    @property
    def told(self) -> str:
        """Of one that was moved: with what it goes on, in words."""
        was = "" if self.moved_from is None else f", no longer {self.moved_from}"
        return f"goes on with version {self.template_version}{was}"


class JournalStep(RequestEvent):
    """A finished call of a run, or a call with an effect that is about to be made.

    (`request_id`, `step`) name it: `step` counts a request's records from 0 over all attempts,
    without a gap. What is too long for one record stands in `parts` records of one number, whose
    `part` counts from 0. `kind` says what it is; a reader that knows a kind not ends the run that
    it goes on with:

    `answered` is an answer of the agent's model, known by the id of the answer that it `follows`,
    `""` for the first; `asked` stands for what was asked. `beside` is a model's answer to a
    middleware, known by `asked`. `intent` is written before the tool `name` is called: `call_id`,
    its declared `effect`, the idempotency `key` that it is given, its `arguments` as JSON text, cut
    to 8,192 bytes, and `until_ms`, when its time is over. `done` is the answer to the tool call
    `call_id`. `repair` is an answer that the model is to give anew. `moved` says that the run goes
    on with another version of its template, which `began` has: what was answered before it counts,
    whatever that version would have asked.

    `content` is what was said, as JSON; of a record in parts `text` has this part of its text. An
    object in it with one key that begins with `$` is a value that JSON has not: `$bytes` in base64,
    `$float` (`nan`, `inf`), `$tuple`, `$set`, `$frozenset`, `$datetime`, `$date`, `$time`,
    `$timedelta`, `$uuid`, `$decimal`, `$dict` as pairs of key and value, `$message`, and
    LangGraph's `$send` and `$overwrite`.
    `began` stands on the first record, and on one that is `moved`. `used` is what model calls used
    since the record before, and `cost_micros` what that costs, rounded up; none where nothing of
    the run is priced. `duration_ms` is how long the call took that was answered. `moments`
    are the times that middlewares were told since the record before, by how many answers the
    agent's model had given.

    `renewed_ms` stands on a copy: the run waits, and retention is about to remove the record that
    stood before. It says when the copy was written. The copies of all records stand together, in
    their order; each has the id of what it is a copy of, and no `used` and `cost_micros`, which
    count once.
    """

    title: ClassVar[str] = "A finished call of a run, or one with an effect that begins"

    type: Literal["journal"] = "journal"
    attempt: Count
    step: Annotated[int, Field(ge=0, lt=TRIES_MAX), AS_COUNT]
    part: Annotated[int, Field(ge=0, lt=PARTS_MAX)] = 0
    parts: Annotated[int, Field(ge=1, le=PARTS_MAX)] = 1
    kind: Annotated[str, Field(min_length=1, max_length=32)]
    call_id: str | None = None
    follows: str | None = None
    asked: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    name: str | None = None
    effect: str | None = None
    key: str | None = None
    arguments: str | None = None
    until_ms: EpochMs | None = None
    content: dict[str, Any] | None = None
    text: str | None = None
    duration_ms: Count | None = None
    began: RunBegan | None = None
    used: Annotated[tuple[CallUsage, ...], Few] = ()
    cost_micros: Micros | None = None
    moments: Annotated[dict[str, EpochMs], Few] | None = None
    renewed_ms: EpochMs | None = None

    @property
    def event_id(self) -> str:
        """The request, the step and its part."""
        return f"{self.request_id}:journal:{self.step}.{self.part}"
