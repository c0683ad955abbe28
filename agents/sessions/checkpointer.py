"""A session's state around one run: opened from a `CheckpointSaved`, sealed into the next one.

LangGraph sees a checkpointer; nothing is written here. The lane commits what `seal` gives in the
transaction that holds the run's result, so a session's state is never ahead of its results.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Self

import structlog
from langchain_core.messages import (
    AnyMessage,
    BaseMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    LATEST_VERSION,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.base.id import uuid6
from typing_extensions import override

from millstream.agents.ids import new_id
from millstream.agents.sessions.kept import (
    LESS_AND_LESS,
    is_of_known_type,
    keepable_message,
    keepable_state,
    shortened,
)
from millstream.agents.sessions.media import (
    EarlierMedia,
    earlier_media,
    has_media,
    without_oldest_media,
)
from millstream.agents.sessions.memory import newest_turns
from millstream.agents.sessions.mending import mended
from millstream.agents.sessions.opening import SERDE, opened_state
from millstream.agents.templates.memory import Memory, NoMemory
from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.base import next_ordinal
from millstream.schemas.content import InputKind
from millstream.schemas.endpoints import without_client
from millstream.schemas.errors import Terminal
from millstream.schemas.events import CheckpointSaved, ResolvedRequest
from millstream.schemas.reasons import words_of

__all__ = ["CHECKPOINT_CHARS_MAX", "RunCheckpointer"]

CHECKPOINT_CHARS_MAX: Final = 900_000
"""Longest `data` of a checkpoint: with its envelope it must fit a Kafka record of 1 MiB."""

_NODE: Final = "model"
"""What LangChain's `create_agent` calls the node of the model."""

_PACKED_BYTES_MAX: Final = CHECKPOINT_CHARS_MAX // 4 * 3

LOST_NAMED_MAX: Final = 20
"""What a checkpoint leaves out is named in the log up to this many; the rest is counted."""

_log = structlog.get_logger(__name__)


class RunCheckpointer(BaseCheckpointSaver[int]):
    """The checkpointer of one run of one session; made for a run and dropped with it.

    Holds one checkpoint, the newest, as objects: it is read once and serialised once per run.
    It opens with as many earlier turns as the template's memory takes, or none with `forget`, in
    the form that the provider of `model` takes.

    Raises `CheckpointUnreadable` if `loaded` cannot be opened, `Terminal` on sealing a state that
    no record can hold.
    """

    serde = SERDE

    def __init__(
        self,
        loaded: CheckpointSaved | None,
        template: AgentTemplate,
        *,
        model: str = "",
        forget: bool = False,
    ) -> None:
        super().__init__(serde=SERDE)
        self._loaded = loaded
        self._memory = template.memory
        self._newest = None
        self._media: EarlierMedia | None = None
        if loaded is not None:
            memory = NoMemory() if forget else template.memory
            provider = without_client(model).partition(":")[0]
            self._newest = _opened(loaded, memory, provider)

    @property
    def messages(self) -> Sequence[AnyMessage]:
        """The messages of the newest state, oldest first."""
        if self._newest is None:
            return ()
        messages: list[AnyMessage] = self._newest.checkpoint["channel_values"].get("messages", [])
        return messages

    @property
    def has_media(self) -> bool:
        """Whether an earlier question, or a tool's result, holds more than text."""
        return has_media(self.messages)

    def show_media(self, taken: frozenset[InputKind]) -> None:
        """Have a model that takes these kinds shown earlier media, as far as memory has room."""
        assert self._newest is not None  # noqa: S101  there are messages
        values = self._newest.checkpoint["channel_values"]
        self._media = earlier_media(values["messages"], taken, self._memory)
        values["messages"] = self._media.shown

    @override
    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Self:
        """Keep to the own list, whatever a graph asks for (as LangGraph's strict mode does)."""
        return self

    @override
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Give the newest checkpoint; nested graphs start afresh in each run."""
        return None if _namespace(config) else self._newest

    @override
    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Give the newest checkpoint: a session's earlier ones are on the checkpoints topic."""
        if self._newest is not None:
            yield self._newest

    @override
    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Take in a checkpoint."""
        placed = _config(config, checkpoint["id"])
        if not _namespace(config):
            self._newest = CheckpointTuple(placed, checkpoint, metadata, None, [])
        return placed

    @override
    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Take in the writes of a step that is not over, as an interrupted run leaves them."""
        if self._newest is None or _namespace(config):
            return
        pending = [*(self._newest.pending_writes or ()), *((task_id, *write) for write in writes)]
        self._newest = self._newest._replace(pending_writes=pending)

    def add_turn(self, question: BaseMessage, answer: BaseMessage) -> bool:
        """Add a question and its answer to the state, as LangGraph's `aupdate_state` would.

        `False`, with nothing changed, where there is more to do than to add them.
        """
        newest = self._newest
        messages, versions, seen, step = [], {}, {}, -1
        if newest is not None:
            messages = newest.checkpoint["channel_values"].get("messages", [])
            versions = newest.checkpoint["channel_versions"]
            seen, step = newest.checkpoint["versions_seen"], newest.metadata.get("step", -1)
        if not _only_messages(newest) or answer.id in {one.id for one in messages}:
            return False
        for one in (question, answer):
            if one.id is None:
                one.id = new_id()
        added: Checkpoint = {
            "v": LATEST_VERSION,
            "id": str(uuid6(clock_seq=step + 1)),
            "ts": datetime.now(UTC).isoformat(),
            "channel_values": {"messages": [*messages, question, answer]},
            "channel_versions": {
                **versions,
                "messages": max((int(one) for one in versions.values()), default=0) + 1,
            },
            "versions_seen": {_NODE: {}, **seen},
            "updated_channels": None,
        }
        metadata: CheckpointMetadata = {"source": "update", "step": step + 1, "parents": {}}
        config = {"configurable": {"thread_id": "", "checkpoint_ns": ""}}
        placed = _config(config, added["id"])  # type: ignore[arg-type]
        self._newest = CheckpointTuple(placed, added, metadata, None, [])
        return True

    def replace(self, message: BaseMessage, by: BaseMessage) -> None:
        """Put another message in the place of one of the newest state."""
        assert self._newest is not None  # noqa: S101 - the message came from it
        values = self._newest.checkpoint["channel_values"]
        values["messages"] = [by if one is message else one for one in values["messages"]]

    def seal(self, request: ResolvedRequest, at_ms: int) -> CheckpointSaved:
        """Serialise the newest state as the session's next checkpoint."""
        assert self._newest is not None  # noqa: S101 - a graph that ended has put its state
        checkpoint = self._newest.checkpoint
        if self._media is not None:
            values = checkpoint["channel_values"]
            values["messages"] = self._media.restored(values["messages"])
        packed = _packed(self._newest, request)
        if len(packed) > _PACKED_BYTES_MAX:
            packed = _packed_short(self._newest, request, len(packed))
        data = base64.b64encode(packed).decode("ascii")
        if len(data) > CHECKPOINT_CHARS_MAX:
            message = (
                f"the state of the session takes {len(data)} characters, more than "
                f"{CHECKPOINT_CHARS_MAX}: this turn's messages and tool results are too large"
            )
            raise Terminal(message)
        loaded = self._loaded
        return CheckpointSaved(
            tenant=request.tenant,
            user_id=request.user_id,
            request_id=request.request_id,
            session_id=request.session_id,
            at_ms=at_ms,
            checkpoint_id=checkpoint["id"],
            parent_id=None if loaded is None else loaded.checkpoint_id,
            turn=1 if loaded is None else next_ordinal(loaded.turn),
            data=data,
        )


def _only_messages(newest: CheckpointTuple | None) -> bool:
    if newest is None:
        return True
    return not newest.pending_writes and newest.checkpoint["channel_values"].keys() <= {"messages"}


def _packed(newest: CheckpointTuple, request: ResolvedRequest) -> bytes:
    state: dict[str, Any] = {
        "checkpoint": newest.checkpoint,
        "metadata": newest.metadata,
        "pending_writes": newest.pending_writes,
    }
    values = newest.checkpoint["channel_values"]
    try:
        messages = values.get("messages", ())
        if all(is_of_known_type(one) and _artifact(one) is None for one in messages):
            return SERDE.dumps_typed(state)[1]
    # Whatever a foreign type does when it is written.
    except Exception as error:  # noqa: BLE001
        why = f"{type(error).__name__}: {words_of(error)}"
        _log.info("a state cannot be kept as it is", reason=why)
    lost: list[str] = []
    packed = _dumped(newest, keepable_state(values, lost), lost)
    _tell_lost(request, lost)
    return packed


def _packed_short(newest: CheckpointTuple, request: ResolvedRequest, size_bytes: int) -> bytes:
    """Pack less of a state that no record holds: older media, its longest values, older turns.

    At last it is the newest turn's question and answer, without the calls between them.
    """
    lost: list[str] = []
    values = keepable_state(newest.checkpoint["channel_values"], lost)
    values.pop("structured_response", None)  # which no later run is to see
    messages: list[BaseMessage] = values.get("messages", [])
    told = f"the state: {size_bytes} bytes, more than {_PACKED_BYTES_MAX}"
    lost = [told]
    values["messages"] = without_oldest_media(messages, size_bytes - _PACKED_BYTES_MAX, lost)
    packed = _dumped(newest, values, lost)
    if len(packed) <= _PACKED_BYTES_MAX:
        _tell_lost(request, lost)
        return packed
    for value_bytes_max, select in LESS_AND_LESS:
        lost = [told]
        values["messages"] = [
            shortened(message, value_bytes_max, f"messages[{index}]", lost)
            for index, message in enumerate(select(messages))
        ]
        packed = _dumped(newest, values, lost)
        if len(packed) <= _PACKED_BYTES_MAX:
            break
    _tell_lost(request, lost)
    return packed


def _artifact(message: BaseMessage) -> Any:
    return message.artifact if isinstance(message, ToolMessage) else None


def _dumped(newest: CheckpointTuple, kept: dict[str, Any], lost: list[str]) -> bytes:
    writes = [
        (task, channel, keepable_message(value, f"pending.{channel}", lost))
        for task, channel, value in newest.pending_writes or ()
    ]
    state = {
        "checkpoint": {**newest.checkpoint, "channel_values": kept},
        "metadata": newest.metadata,
        "pending_writes": writes,
    }
    return SERDE.dumps_typed(state)[1]


def _tell_lost(request: ResolvedRequest, lost: Sequence[str]) -> None:
    if lost:
        _log.warning(
            "a checkpoint holds less than its run",
            request_id=request.request_id,
            session_id=request.session_id,
            left_out=lost[:LOST_NAMED_MAX],
            left_out_count=len(lost),
        )


def _opened(saved: CheckpointSaved, memory: Memory, provider: str) -> CheckpointTuple:
    state = opened_state(saved)
    config = {"configurable": {"thread_id": saved.session_id, "checkpoint_ns": ""}}
    placed = _config(config, state.checkpoint["id"])  # type: ignore[arg-type]
    values = state.checkpoint["channel_values"]
    # An earlier turn's structured answer must not pass for this one's.
    values.pop("structured_response", None)
    values["messages"] = mended(newest_turns(state.messages, memory), provider)
    return CheckpointTuple(placed, state.checkpoint, state.metadata, None, state.pending_writes)


def _namespace(config: RunnableConfig) -> str:
    namespace: str = config["configurable"].get("checkpoint_ns", "")
    return namespace


def _config(config: RunnableConfig, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": config["configurable"]["thread_id"],
            "checkpoint_ns": _namespace(config),
            "checkpoint_id": checkpoint_id,
        }
    }
