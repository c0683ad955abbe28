"""What is asked of sessions: each command a record with an id of its own, which a lane decides."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from millstream.schemas.base import Count, Event, Frozen, FrozenDict, Identifier

__all__ = [
    "METADATA_KEY_CHARS_MAX",
    "NO_TTL",
    "OF_ALL",
    "TTL_IDLE_S_MAX",
    "TTL_S_MAX",
    "SessionCommand",
    "SessionOperation",
    "SessionTtl",
]

SessionOperation = Literal[
    "create",
    "touch",
    "update",
    "close",
    "reopen",
    "expire",
    "delete",
    "name_checkpoint",
    "restore",
]

OF_ALL: Final = frozenset({"close", "delete"})
"""The operations that may be for all sessions of a user: they name none."""

TTL_IDLE_S_MAX: Final = 30 * 86_400
"""The longest idleness: what has not been written for so long is not kept on the log either."""

TTL_S_MAX: Final = 365 * 86_400


METADATA_KEY_CHARS_MAX: Final = 256

SessionMetadata = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=METADATA_KEY_CHARS_MAX)],
        Annotated[str, Field(max_length=1024)],
    ],
    Field(max_length=32),
    AfterValidator(FrozenDict),
]
"""Up to 32 strings by names: so few that whatever is said of a session fits into a record."""


class SessionTtl(Frozen):
    """How long a session lives, in seconds: without being used, and in all; `None`: no limit."""

    idle_s: Annotated[int, Field(ge=1, le=TTL_IDLE_S_MAX)] | None = None
    total_s: Annotated[int, Field(ge=1, le=TTL_S_MAX)] | None = None

    def filled_from(self, other: SessionTtl) -> SessionTtl:
        """Give it with the other's limits where it has none of its own."""
        if self.is_none or other.is_none:
            return other if self.is_none else self
        return SessionTtl(
            idle_s=other.idle_s if self.idle_s is None else self.idle_s,
            total_s=other.total_s if self.total_s is None else self.total_s,
        )

    @property
    def is_none(self) -> bool:
        """Whether it limits nothing."""
        return self.idle_s is None and self.total_s is None


NO_TTL: Final = SessionTtl()
"""Limits nothing."""


class SessionCommand(Event):
    """What a user, or whoever acts for one, asks of a session, or of all of the user's.

    Sent again under its `command_id` it has no second effect. `session_id` may be left out by
    `close` and `delete`, which are then for all sessions that the user has. `ttl` and `metadata`
    are of `create` and `update`: what is left out stays as it is. `drain` is of `close`: what waits
    still runs, until it is closed without. `turn` is of `restore` and `name_checkpoint`: the turn
    whose checkpoint is meant; `restore` may give the checkpoint's `name` instead, and
    `checkpoint_offset` where its record is believed to stand, which spares a search. `if_due`, of
    `expire`: only if the session's time to live is over by the broker's time of this record. `by`
    is who asks and `why` for what reason.
    """

    title: ClassVar[str] = "What is asked of a session"

    type: Literal["session_command"] = "session_command"
    command_id: Identifier
    operation: SessionOperation
    session_id: Identifier | None = None
    ttl: SessionTtl | None = None
    metadata: SessionMetadata | None = None
    drain: bool = False
    turn: Annotated[Count, Field(ge=1)] | None = None
    name: Identifier | None = None
    checkpoint_offset: Count | None = None
    if_due: bool = False
    by: Identifier | None = None
    why: Annotated[str, Field(max_length=500)] | None = None

    @model_validator(mode="after")
    def _says_of_what(self) -> Self:
        if self.session_id is None and self.operation not in OF_ALL:
            message = f"session_id is missing: {self.operation} is for one session"
            raise ValueError(message)
        named, turned = self.name is not None, self.turn is not None
        if self.operation == "name_checkpoint" and not (named and turned):
            message = "name_checkpoint gives a name to the checkpoint of a turn: give both"
            raise ValueError(message)
        if self.operation == "restore" and named == turned:
            message = "restore goes back to a turn or to a name: give one of the two"
            raise ValueError(message)
        return self

    @property
    def event_id(self) -> str:
        """The command's own id."""
        return self.command_id

    @property
    def digest(self) -> str:
        """What tells it from another command of its id: 16 digits of all that it would do."""
        asked = self.model_dump_json(
            include={"operation", "session_id", "ttl", "drain", "turn", "name", "if_due"}
        )
        # Their order says nothing.
        said = None if self.metadata is None else sorted(self.metadata.items())
        return blake2b(f"{asked}{json.dumps(said)}".encode(), digest_size=8).hexdigest()
