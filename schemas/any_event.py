"""All events on the wire in one union, discriminated by `type`."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field, TypeAdapter

from millstream.schemas.base import Event
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.control.migrations import RunMigration, RunMigrationAnswered
from millstream.schemas.control.templates import TemplateApplied
from millstream.schemas.dead_letters import DeadLetter, DeadLetterRedriven
from millstream.schemas.events import (
    AgentRequest,
    AgentResult,
    AgentToken,
    AttemptStarted,
    CheckpointSaved,
    CostRecorded,
    Decision,
    SessionUpdated,
)
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.lane_events import (
    CommandObeyed,
    HoldPlaced,
    LaneOpened,
    LaneSnapshot,
    RequestsDeferred,
    RunParked,
    StageRequest,
)
from millstream.schemas.runs.reservations import CallReserved
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.sessions.states import SessionAnswered, SessionChanged, SessionState
from millstream.schemas.steps import AgentStep

AnyEvent = Annotated[
    AgentRequest
    | StageRequest
    | AgentToken
    | AgentStep
    | AgentResult
    | Decision
    | AttemptStarted
    | CallReserved
    | CostRecorded
    | JournalStep
    | CheckpointSaved
    | SessionUpdated
    | SessionCommand
    | SessionState
    | SessionChanged
    | SessionAnswered
    | RunParked
    | HoldPlaced
    | RequestsDeferred
    | ControlCommand
    | CommandObeyed
    | RunMigration
    | RunMigrationAnswered
    | LaneOpened
    | LaneSnapshot
    | TemplateApplied
    | DeadLetter
    | DeadLetterRedriven,
    Field(discriminator="type"),
]

EVENT_TYPES: tuple[type[Event], ...] = get_args(get_args(AnyEvent)[0])
"""The same, for whoever goes through them."""

any_event: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)
"""Reads any event by its `type`."""
