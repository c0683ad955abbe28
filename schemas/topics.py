"""The topic catalogue: every topic's name, events, key, partitions, retention and cleanup policy.

Topics are per user (`PER_USER`: all have the same number of partitions, and a user's records stand
at the user's home partition in each) or per lane (`PER_LANE`: as many partitions, the record's
partition is the lane's); of a `SINGLE` one all records stand at partition 0, in their one order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

RECORD_BYTES_MAX = 1_000_000
"""Largest record that is written; below the broker's default `message.max.bytes` of 1,048,588."""

INPUT_BYTES_MAX = 950_000
"""Largest request or command, key, value and all headers: what is written of it has to fit, too."""

Placement = Literal["per_user", "per_lane", "single"]

_COMPACTION = {
    # Compacted topics are read whole. The newest segment is never compacted, and of the others a
    # tenth may be stale: so what is read is what is alive, a tenth of it, and some 4 MiB.
    "segment.bytes": str(4 * 1024 * 1024),
    "segment.ms": str(HOUR_MS),
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": str(HOUR_MS),
    "delete.retention.ms": str(HOUR_MS),
}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic of the catalogue.

    `name` is without the namespace. `record_bytes_max` is the largest record that is written there:
    key, value and headers count. `retention_ms` is `None` for what is kept for ever. Of a topic
    that is `compacted` the broker keeps the newest record of each key, until its retention if it
    has one. `compression` is what the broker does to it, `None`: nothing. `key` says in words what
    the records' key is.
    """

    name: str
    event: type[Event]
    key: str
    about: str
    retention_ms: int | None
    placement: Placement = "per_user"
    public: bool = True
    record_bytes_max: int = RECORD_BYTES_MAX
    is_compacted: bool = False
    compression: Literal["gzip"] | None = None

    @property
    def compacted(self) -> bool:
        """Whether the broker keeps the newest record of each key."""
        return self.is_compacted or self.retention_ms is None

    @property
    def cleanup_policies(self) -> tuple[str, ...]:
        """What the broker does with old records, in Kafka's words."""
        deletes = self.retention_ms is not None
        return ("compact",) * self.compacted + ("delete",) * deletes

    @property
    def batch_bytes_min(self) -> int:
        """The least that the topic's `max.message.bytes` may be.

        It counts a whole batch. What is put at its partition, or put back, may be a little larger
        than `record_bytes_max` of a topic of requests or commands.
        """
        return max(self.record_bytes_max, RECORD_BYTES_MAX)

    def configs(self) -> dict[str, str]:
        """Give the topic's configuration as Kafka names it.

        The broker's clock stamps every record: time that decides is never a client's.
        """
        configs = {
            "cleanup.policy": ",".join(self.cleanup_policies),
            "message.timestamp.type": "LogAppendTime",
        }
        if self.retention_ms is not None:
            configs["retention.ms"] = str(self.retention_ms)
        if self.compacted:
            configs |= _COMPACTION
        if self.compression is not None:
            configs["compression.type"] = self.compression
        if self.record_bytes_max > RECORD_BYTES_MAX:
            configs["max.message.bytes"] = str(self.record_bytes_max)
        return configs


REQUESTS = TopicSpec(
    "requests",
    AgentRequest,
    "user id (any other key is put right)",
    "What upstream systems ask of agents",
    7 * DAY_MS,
    record_bytes_max=INPUT_BYTES_MAX,
)
TOKENS = TopicSpec(
    "tokens", AgentToken, "user", "Answers as they are written, attempt by attempt", DAY_MS
)
STEPS = TopicSpec(
    "steps",
    AgentStep,
    "user",
    "What runs do beside writing: calls of models and tools, retries, pauses",
    # A step belongs to a place in its attempt's text.
    TOKENS.retention_ms,
)
RESULTS = TopicSpec("results", AgentResult, "user", "One terminal result per request", 7 * DAY_MS)
DECISIONS = TopicSpec(
    "decisions", Decision, "user", "What the middleware decided, and why", 7 * DAY_MS
)
ATTEMPTS = TopicSpec(
    "attempts",
    AttemptStarted,
    "user",
    "Attempts that may cost, each before its first call",
    # As long as what they cost: the two are one account.
    30 * DAY_MS,
)
RESERVATIONS = TopicSpec(
    "reservations",
    CallReserved,
    "user",
    "What runs reserve for their further model calls, each before it is made",
    ATTEMPTS.retention_ms,
)
COSTS = TopicSpec("costs", CostRecorded, "user", "What each run spent", 30 * DAY_MS)
CHECKPOINTS = TopicSpec(
    "checkpoints", CheckpointSaved, "user", "Session states after each run", 30 * DAY_MS
)
JOURNAL = TopicSpec(
    "journal",
    JournalStep,
    "user",
    "What runs have done so far, so that nobody does it again",
    # A run may wait for as long as its session's checkpoint stands.
    CHECKPOINTS.retention_ms,
    # Half of a short record are its headers and ids, which are alike from one to the next.
    compression="gzip",
)
SESSIONS = TopicSpec(
    "sessions",
    SessionUpdated,
    "user and session",
    "The head of each session",
    # A head is of no use once the checkpoint that it names is gone.
    CHECKPOINTS.retention_ms,
    is_compacted=True,
)
SESSION_COMMANDS = TopicSpec(
    "session-commands",
    SessionCommand,
    "user (any other key is put right)",
    "What is asked of sessions",
    7 * DAY_MS,
    record_bytes_max=INPUT_BYTES_MAX,
)
SESSION_STATES = TopicSpec(
    "session-states",
    SessionState,
    "user and session",
    "What each session is beside its conversation",
    # As long as the heads: what has not been written for so long is a session no more.
    CHECKPOINTS.retention_ms,
    is_compacted=True,
)
SESSION_EVENTS = TopicSpec(
    "session-events",
    SessionChanged,
    "user",
    "Sessions that were created, changed or ended, by whom and why",
    COSTS.retention_ms,
)
SESSION_ANSWERS = TopicSpec(
    "session-answers",
    SessionAnswered,
    "user",
    "What became of each command on sessions",
    # A command that comes again is answered as before, for as long as it may stand unread.
    SESSION_COMMANDS.retention_ms,
)
CONTROL = TopicSpec(
    "control",
    ControlCommand,
    "user (any other key is put right)",
    "What users ask of requests that were accepted before",
    7 * DAY_MS,
    record_bytes_max=INPUT_BYTES_MAX,
)
OBEYED = TopicSpec(
    "obeyed",
    CommandObeyed,
    "user",
    "Which commands were carried out",
    # As long as the commands: one that is delivered again must find its mark.
    CONTROL.retention_ms,
)
RUN_MIGRATIONS = TopicSpec(
    "run-migrations",
    RunMigration,
    "user (any other key is put right)",
    "Which waiting runs are to go on with another version of their template",
    CONTROL.retention_ms,
    record_bytes_max=INPUT_BYTES_MAX,
)
RUN_MIGRATION_ANSWERS = TopicSpec(
    "run-migration-answers",
    RunMigrationAnswered,
    "user",
    "Which runs were moved to another version, and why others were not",
    # As long as what they answer: a command that is delivered again must find its answer.
    RUN_MIGRATIONS.retention_ms,
)
PARKED = TopicSpec(
    "parked",
    RunParked,
    "user and request",
    "Admitted requests that wait, until they have ended",
    None,
    # A request as large as may be, and what was decided on it.
    record_bytes_max=2 * RECORD_BYTES_MAX,
)
HOLDS = TopicSpec(
    "holds",
    HoldPlaced,
    "user, and request or session",
    "Which requests and sessions are paused",
    None,
)
DEFERRED = TopicSpec(
    "deferred",
    RequestsDeferred,
    "input topic and user",
    "Whose requests are left where they stand until there is room, and from where on",
    None,
)
LANES = TopicSpec(
    "lanes", LaneOpened, "stage", "Who owns each partition", None, placement="per_lane"
)
SNAPSHOTS = TopicSpec(
    "snapshots",
    LaneSnapshot,
    "stage and part",
    "What lanes know, from which a later owner goes on",
    None,
    placement="per_lane",
    public=False,
)
DEAD_LETTERS = TopicSpec(
    "dead-letters",
    DeadLetter,
    "key of the original record",
    "Records that could not be read, with the reason",
    30 * DAY_MS,
    placement="per_lane",
    # The largest record that the broker takes, in base64, and why it could not be read.
    record_bytes_max=2 * RECORD_BYTES_MAX,
)
REDRIVES = TopicSpec(
    "redrives",
    DeadLetterRedriven,
    "address of the original record",
    "Which dead letters were put back, and as what",
    # Longer than any dead letter can be seen: its segment may span days beyond its own retention.
    60 * DAY_MS,
    placement="per_lane",
)

TEMPLATES = TopicSpec(
    "templates",
    TemplateApplied,
    "template's name and version",
    "Templates that were applied at run time",
    None,
    placement="single",
)

COMMAND_TOPICS = (CONTROL, SESSION_COMMANDS, RUN_MIGRATIONS)
"""What lanes read beside requests: commands, which are given again and never put back."""

BASE_TOPICS: tuple[TopicSpec, ...] = (
    REQUESTS,
    TOKENS,
    STEPS,
    RESULTS,
    DECISIONS,
    ATTEMPTS,
    RESERVATIONS,
    COSTS,
    JOURNAL,
    CHECKPOINTS,
    SESSIONS,
    SESSION_COMMANDS,
    SESSION_STATES,
    SESSION_EVENTS,
    SESSION_ANSWERS,
    CONTROL,
    OBEYED,
    RUN_MIGRATIONS,
    RUN_MIGRATION_ANSWERS,
    PARKED,
    HOLDS,
    DEFERRED,
    LANES,
    SNAPSHOTS,
    DEAD_LETTERS,
    REDRIVES,
    TEMPLATES,
)


def stage_topic(first_layer: str) -> TopicSpec:
    """Give the topic that joins a stage, which begins with `first_layer`, to the one before it."""
    return TopicSpec(
        f"stage-{first_layer}",
        StageRequest,
        "user",
        f"Requests on their way to the stage that begins with {first_layer}",
        DAY_MS,
        public=False,
    )


def catalogue(chain_cuts: tuple[str, ...] = ()) -> tuple[TopicSpec, ...]:
    """Give all topics of a deployment whose chain is cut before each layer in `chain_cuts`."""
    return BASE_TOPICS + tuple(stage_topic(layer) for layer in chain_cuts)
