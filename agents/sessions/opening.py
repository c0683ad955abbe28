"""What a `CheckpointSaved` holds, read back as LangGraph's objects and by no other types."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

import ormsgpack
from langchain_core.messages import AnyMessage, BaseMessage
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from millstream.schemas.events import CheckpointSaved
from millstream.schemas.runs.errors import CheckpointUnreadable

__all__ = ["SERDE", "OpenedState", "opened_state"]

# No pickle, and of types only LangGraph's own list of safe ones (messages, dates, …): a record is
# data from outside, and must not be able to name a class to be imported and called.
SERDE: Final = JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=None)


@dataclass(frozen=True, slots=True)
class OpenedState:
    """A session's state as it was saved; `messages` are all that it holds, oldest first."""

    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    messages: list[AnyMessage]
    pending_writes: list[tuple[str, str, Any]]


def opened_state(saved: CheckpointSaved) -> OpenedState:
    """Read a checkpoint's state. Raises `CheckpointUnreadable` for what is none."""
    try:
        state = SERDE.loads_typed(("msgpack", base64.b64decode(saved.data, validate=True)))
        checkpoint: Checkpoint = state["checkpoint"]
        messages = list(checkpoint["channel_values"].get("messages", []))
        metadata: CheckpointMetadata = state["metadata"]
        pending = [(task, channel, value) for task, channel, value in state["pending_writes"]]
        checkpoint["id"]  # what the next one follows
    except (
        binascii.Error,
        ormsgpack.MsgpackDecodeError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise _unreadable(saved, f"{type(error).__name__}: {error}") from error
    # Types off the list come back as plain data: that would be another conversation.
    if not all(isinstance(message, BaseMessage) for message in messages):
        raise _unreadable(saved, "it holds messages of a type that is not allowed")
    return OpenedState(checkpoint, metadata, messages, pending)


def _unreadable(saved: CheckpointSaved, why: str) -> CheckpointUnreadable:
    message = f"checkpoint {saved.checkpoint_id} of session {saved.session_id!r}: {why}"
    return CheckpointUnreadable(message)
