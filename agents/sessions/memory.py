"""What of a session's earlier turns a model is shown: the newest whole ones that fit, in steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from langchain_core.messages import AnyMessage, HumanMessage

from millstream.agents.templates.memory import LastTurns, Memory, NoMemory, Summary, TokenBudget

__all__ = [
    "BYTES_PER_TOKEN",
    "FRAME_TOKENS_MAX",
    "TurnBounds",
    "bounds_of",
    "memory_tokens_max",
    "newest_turns",
]

BYTES_PER_TOKEN: Final = 3
"""Cautious for English (some four), about right for other scripts."""

FRAME_TOKENS_MAX: Final = 16
"""Taken for what a chat's format puts around each message."""


@dataclass(frozen=True, slots=True)
class TurnBounds:
    """How much of a conversation is shown, and what a trim leaves of one that is longer.

    Attributes:
        turns_max: `None` is as many as fit.
        turns_keep: The most turns that a trim leaves.
        bytes_max: The most bytes of all messages together.
        bytes_keep: The most bytes that a trim leaves, unless a single turn is longer.
        frame_bytes: What a message counts besides its text.
    """

    turns_max: int | None
    turns_keep: int | None
    bytes_max: int
    bytes_keep: int
    frame_bytes: int

    def kept_from(self, messages: Sequence[AnyMessage]) -> int:
        """Give the index of the first message that stays.

        A turn is a human message and all that follows it up to the next. It is kept or left out
        whole: a tool's result without its call, or a call without its result, is refused by
        providers.
        """
        starts = [at for at, message in enumerate(messages) if isinstance(message, HumanMessage)]
        sizes = [self._size_bytes(message) for message in messages]
        if not starts:
            return len(messages)
        has_few = self.turns_max is None or len(starts) <= self.turns_max
        if has_few and sum(sizes[starts[0] :]) <= self.bytes_max:
            return starts[0]
        kept_from = turn_end = len(messages)
        kept_bytes = 0
        for start in reversed(starts if self.turns_keep is None else starts[-self.turns_keep :]):
            kept_bytes += sum(sizes[start:turn_end])
            # Better the last turn than none, where it alone takes more than a trim leaves.
            if kept_bytes > (self.bytes_keep if turn_end < len(messages) else self.bytes_max):
                break
            kept_from = turn_end = start
        return kept_from

    def _size_bytes(self, message: AnyMessage) -> int:
        calls = getattr(message, "tool_calls", ())
        called = sum(len(str(call["args"]).encode()) for call in calls)
        return len(message.text.encode()) + called + self.frame_bytes


def bounds_of(memory: LastTurns | TokenBudget | Summary) -> TurnBounds:
    """Give what a strategy shows at most, and what it keeps where there is more."""
    bytes_max = memory.tokens * BYTES_PER_TOKEN
    if isinstance(memory, LastTurns):
        share = memory.turns_kept / memory.turns_max
        kept = int(bytes_max * share)
        return TurnBounds(memory.turns_max, memory.turns_kept, bytes_max, kept, 0)
    frame_bytes = FRAME_TOKENS_MAX * BYTES_PER_TOKEN
    return TurnBounds(None, None, bytes_max, int(bytes_max * memory.keep_share), frame_bytes)


def newest_turns(messages: Sequence[AnyMessage], memory: Memory) -> list[AnyMessage]:
    """Give the turns that a run begins with. `Summary` begins with all, and trims as it runs."""
    match memory:
        case NoMemory():
            return []
        case Summary():
            return list(messages)
        case LastTurns() | TokenBudget():
            return list(messages[bounds_of(memory).kept_from(messages) :])
        case _:
            assert_never(memory)


def memory_tokens_max(memory: Memory) -> int:
    """Give the most tokens that one model call reads of earlier turns: none is less than a byte."""
    match memory:
        case NoMemory():
            return 0
        case LastTurns():
            frames = FRAME_TOKENS_MAX * 2 * memory.turns_max
            return memory.tokens * BYTES_PER_TOKEN + frames
        case TokenBudget() | Summary():
            # Their messages' frames are counted in.
            return memory.tokens * BYTES_PER_TOKEN
        case _:
            assert_never(memory)
