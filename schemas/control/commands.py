"""What is asked of requests that were accepted before, or of a worker."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from millstream.schemas.base import Event, Identifier, require_one_target

__all__ = ["ControlCommand"]


class ControlCommand(Event):
    """What a user asks of requests that were accepted before, or an operator of a worker.

    `cancel` ends one request (`request_id`) or all of a session that have arrived (`session_id`),
    read or not: each ends in one result, `cancelled` unless it had ended already. `pause` lets no
    run of the request or session begin, and stops one under way before its next call of a model or
    tool; `resume` takes that back. Name one of the two. `drain` tells the worker named `worker` to
    hand over what it has and end; it stands at any partition that the worker owns.
    """

    title: ClassVar[str] = "What is asked of requests that were accepted before, or of a worker"

    type: Literal["control"] = "control"
    command: Literal["cancel", "pause", "resume", "drain"]
    request_id: Identifier | None = None
    session_id: Identifier | None = None
    worker: Identifier | None = None

    @model_validator(mode="after")
    def _names_one_target(self) -> Self:
        if self.command != "drain":
            require_one_target(self.request_id, self.session_id)
        elif self.worker is None:
            message = "name the worker that is to be drained"
            raise ValueError(message)
        return self

    @property
    def event_id(self) -> str:
        """The command, its target (a request, session or worker) and when it was given."""
        target = f"r:{self.request_id}" if self.request_id else f"s:{self.session_id}"
        if self.command == "drain":
            target = f"w:{self.worker}"
        return f"{self.command}:{target}:{self.at_ms}"
