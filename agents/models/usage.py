"""Whether a provider's report of usage can be true, and what is taken instead where it cannot.

A report is what a model call is charged by, and comes from outside. Rules:

- Several reports in one call are made one (`reports.py`).
- A token has at least a byte. So a call read at most as many tokens as it sent bytes, and
  `INPUT_ALLOWANCE` for what the chat's format puts in (not checked where it sent media), and wrote
  at most as many as it may or as bytes came back, and `OUTPUT_ALLOWANCE`. Reasoning that stays
  unseen comes on top, up to `REASONING_TOKENS_MAX`.
- A provider counts cached tokens among those of the input. Where there are more of them, they are
  beside it if the total says so, and added; else the report contradicts itself. Of reasoning and
  audio there are never more than of all tokens of their side.
- What cannot be true is estimated at that same bound of bytes: for each side by itself, and never
  less than was used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from millstream.agents.models.known.unseen import Shown, asks_for_reasoning
from millstream.agents.models.media.tokens import media_tokens
from millstream.agents.models.reports import (
    Report,
    cache_writing,
    gathered,
    is_count,
    part_of,
    summed,
    usage_of,
)
from millstream.agents.models.thoughts import thought_of
from millstream.schemas.base import NO_USAGE, Usage

__all__ = [
    "BYTES_PER_TOKEN_MAX",
    "DOUBT",
    "FRAME_TOKENS",
    "UNSEEN_TOKENS_MAX",
    "ModelCall",
    "sent_bytes",
]

DOUBT: Final = "usage_doubt"
"""In a chunk's or message's metadata: why its provider's report was not believed."""

INPUT_ALLOWANCE: Final = 1_024
"""Tokens that a provider may put into a prompt itself: a preamble for tools, the chat's format."""

FRAME_TOKENS: Final = 16
"""Tokens taken for what a chat's format puts around each message."""

OUTPUT_ALLOWANCE: Final = 64

BYTES_PER_TOKEN_MAX: Final = 32
"""An answer of more bytes than this times its limit of tokens has passed the limit: the longest
tokens are runs of blanks, and a language's words have 4 bytes on average."""

REASONING_TOKENS_MAX: Final = 131_072

UNSEEN_TOKENS_MAX: Final = 131_072
"""Tokens that a tool's model may read beyond what was sent, or write where it has no limit.

Its call may go on from what its provider keeps: an earlier response, a stored prompt, a search."""

_LIMITS: Final = (
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"),
    "num_predict",
)
"""What providers' classes call a limit of output, among the parameters of a call."""

_DELTAS: Final = frozenset({"google_genai"})
"""Providers whose running totals LangChain makes differences of, from one chunk to the next."""


class ModelCall:
    """One model call under way: what it sent, what came back, what was reported of it.

    `is_own`: it is the agent's, and what it writes is the agent's voice; `has_spoken` once it wrote
    text. `used` is what it counts at once it is over, `most` what is reserved for it. `model` is
    the name of any other's model.
    `answer_tokens_max` is the limit under which the answers before it in this turn were written, 0
    where nobody knows. `shown` is how much of what its model writes can be seen.
    """

    __slots__ = (
        *("_are_deltas", "_params", "_reports", "answer_tokens_max", "doubt", "has_spoken"),
        *("is_own", "messages", "model", "most", "pieces", "received_bytes", "tags", "used"),
        *("_began_s", "has_thought", "shown"),
    )

    def __init__(
        self,
        messages: Sequence[BaseMessage],
        params: Mapping[str, Any],
        *,
        is_own: bool = True,
        model: str | None = None,
        answer_tokens_max: int = 0,
        shown: Shown = "unknown",
    ) -> None:
        self.messages = messages
        self.is_own = is_own
        self.model = model
        self.answer_tokens_max = answer_tokens_max
        self.shown = shown
        self.has_spoken = self.has_thought = False
        self.tags: Sequence[str] | None = None
        self.used = NO_USAGE
        self.most: Usage | None = None
        self._began_s = monotonic()
        self.pieces = 0
        self.received_bytes = 0
        self.doubt: str | None = None
        self._params = params
        self._are_deltas = False
        # Each with the number of pieces of text that had come before it.
        self._reports: list[tuple[int, Report]] = []

    def report(self, told: Report, provider: str | None = None) -> None:
        """Take in a report of usage. `provider` is what LangChain calls the model's provider."""
        self._are_deltas = self._are_deltas or provider in _DELTAS
        self._reports.append((self.pieces, told))

    def told(self) -> Report | None:
        """Give what the call's reports come to, `None` if there is none."""
        if len(self._reports) == 1:
            return self._reports[0][1]
        if self._are_deltas:
            return summed(self._reports)
        return gathered(self._reports) if self._reports else None

    @property
    def took_s(self) -> float:
        """How long ago it began, in seconds."""
        return monotonic() - self._began_s

    @property
    def asked_output_tokens_max(self) -> int:
        """The limit of output that the call was made with, 0 where it names none."""
        for name in _LIMITS:
            limit = self._params.get(name)
            if is_count(limit):
                return limit
        return 0

    def hear(self, token: str) -> None:
        """Count a piece of text."""
        self.pieces += 1
        self.received_bytes += (
            len(token) if token.isascii() else len(token.encode(errors="replace"))
        )

    def look_at(self, message: BaseMessage) -> bool:
        """Count what a piece holds beside plain text: reasoning, blocks, calls; tell if any."""
        size = _size_bytes(message)
        if size and not self.has_thought:
            self.has_thought = bool(thought_of(message))
        self.received_bytes += size
        self.pieces += size > 0
        return size > 0

    def estimate(self, output_tokens: int) -> Usage:
        """Give what the call can have used at most by what was sent, and this much of output."""
        return Usage(input_tokens=self._input_max(FRAME_TOKENS), output_tokens=output_tokens)

    def broken_off(self, output_tokens_max: int, *, is_over: bool) -> Usage:
        """Give an estimate of what a call used that has no answer.

        It wrote what came, and `OUTPUT_ALLOWANCE`; up to `output_tokens_max` where it may have
        written unseen, unless its provider ended it. What it reported counts where it can be true.
        """
        told = self.told() or {}
        read, wrote = told.get("input_tokens"), told.get("output_tokens")
        written = self._wrote_at_most(None, output_tokens_max)
        if not is_over and self.may_write_unseen:
            written = max(written, output_tokens_max)
        most = max(written, output_tokens_max)
        if is_count(wrote) and self._why_not_written(wrote, 0, None, most) is None:
            written = max(written, wrote)
        if is_count(read) and self._why_not_read(read) is None:
            parts = told.get("input_token_details") or {}
            known = all(each is None or is_count(each) for each in parts.values())
            return usage_of(read, written, parts if known else {}, {})
        return self.estimate(written)

    @property
    def may_write_unseen(self) -> bool:
        """Whether its model may have written, or may yet write, what nobody sees."""
        asked = asks_for_reasoning(self._params)
        if asked or self.shown == "nothing" or (self.shown == "part" and asked is None):
            return True
        if self.shown == "unknown" and not self.received_bytes:
            return True
        return self.reasons_unseen(self.told()) or self._reasoned_in_turn()

    def reasons_unseen(self, told: Report | None) -> bool:
        """Tell whether a report has reasoning, of which none was streamed."""
        if told is None or self.has_thought:
            return False
        reasoning = (told.get("output_token_details") or {}).get("reasoning")
        return is_count(reasoning) and reasoning > 0

    def _reasoned_in_turn(self) -> bool:
        """Tell whether an answer before it in its turn took reasoning that was not streamed."""
        for each in reversed(self.messages if self.is_own else ()):
            if each.type == "human":
                break
            if isinstance(each, AIMessage) and not thought_of(each):
                told: Report = each.usage_metadata or {}
                if part_of(told.get("output_token_details") or {}, "reasoning"):
                    return True
        return False

    def believed(
        self, told: Report | None, message: BaseMessage | None, output_tokens_max: int
    ) -> tuple[Usage, str | None]:
        """Give the usage to charge for a call that has ended, and why it is an estimate, if it is.

        `told` is its report, `message` its answer, `output_tokens_max` the most it may write, 0
        where nobody knows.
        """
        if told is None or self.doubt is not None:
            why = self.doubt or "the model's provider did not report what was used"
            return self.estimate(self._wrote_at_most(message, output_tokens_max)), why
        read, wrote = told.get("input_tokens", 0), told.get("output_tokens", 0)
        read_parts = told.get("input_token_details") or {}
        wrote_parts = told.get("output_token_details") or {}
        plain = not (read_parts or wrote_parts) and type(read) is type(wrote) is int
        # As most are: of a size that needs no counting.
        if plain and 0 < read <= INPUT_ALLOWANCE and 0 < wrote <= output_tokens_max:
            return Usage(input_tokens=read, output_tokens=wrote), None
        numbers = (read, wrote, *read_parts.values(), *wrote_parts.values())
        if not all(each is None or is_count(each) for each in numbers):
            bad = next(each for each in numbers if each is not None and not is_count(each))
            used = self.estimate(self._wrote_at_most(message, output_tokens_max))
            return used, f"usage is reported as {str(bad)[:40]} tokens"
        reasoning = part_of(wrote_parts, "reasoning")
        read, why_read = _with_cached(read, wrote, told.get("total_tokens"), read_parts)
        why_read = why_read or self._why_not_read(read)
        why_wrote = self._why_not_written(wrote, reasoning, message, output_tokens_max)
        if why_read is None and why_wrote is None:
            return usage_of(read, wrote, read_parts, wrote_parts), None
        # Parts of a figure that is not believed are not either.
        return (
            Usage(
                input_tokens=read if why_read is None else self._input_max(FRAME_TOKENS),
                output_tokens=(
                    wrote if why_wrote is None else self._wrote_at_most(message, output_tokens_max)
                ),
            ),
            why_read or why_wrote,
        )

    def _wrote_at_most(self, message: BaseMessage | None, output_tokens_max: int) -> int:
        """Give the most tokens that what came can be: no more than the call's limit, if it held.

        A provider that sent more pieces than the limit has tokens, or bytes than these can have,
        did not keep to it.
        """
        limit, written = output_tokens_max, self._written(message)
        holds = self.pieces <= limit and written < limit * BYTES_PER_TOKEN_MAX
        return min(written + OUTPUT_ALLOWANCE, limit) if holds else written + OUTPUT_ALLOWANCE

    def _why_not_read(self, tokens: int) -> str | None:
        if not tokens:
            return "0 input tokens are reported"
        unseen = 0 if self.is_own else UNSEEN_TOKENS_MAX
        if tokens > INPUT_ALLOWANCE and tokens > (
            most := self._input_max(INPUT_ALLOWANCE) + unseen
        ):
            if self._sent_media():
                return None
            return f"{tokens} input tokens are reported, of at most {most} that were sent"
        return None

    def _why_not_written(
        self, tokens: int, reasoning: int, message: BaseMessage | None, output_tokens_max: int
    ) -> str | None:
        if not tokens:
            return "0 output tokens are reported" if self._written(message) else None
        if reasoning > tokens:
            return f"{reasoning} tokens of reasoning are reported, of {tokens} of all output"
        if tokens <= output_tokens_max:
            return None
        seen = max(output_tokens_max, self._written(message)) + OUTPUT_ALLOWANCE
        if reasoning > REASONING_TOKENS_MAX or tokens - reasoning > seen:
            return f"{tokens} output tokens are reported, of at most {seen} that can have come"
        return None

    def _sent_media(self) -> bool:
        return any(_has_media(each) for each in self.messages)

    def _input_max(self, frame_tokens: int) -> int:
        sent, in_turn = 0, True
        for each in reversed(self.messages):
            size = sent_bytes(each)
            in_turn = in_turn and each.type != "human"
            # What was written under a limit is no more to read, whatever its bytes.
            is_answer = in_turn and each.type == "ai" and self.answer_tokens_max
            sent += min(size, self.answer_tokens_max) if is_answer else size
        # Tools, schemas and what else is described: by other names in each dialect.
        for value in self._params.values():
            if value and isinstance(value, Mapping | Sequence) and not isinstance(value, str):
                sent += len(str(value).encode(errors="replace"))
        return sent + frame_tokens * (len(self.messages) + 1)

    def _written(self, message: BaseMessage | None) -> int:
        return max(self.received_bytes, 0 if message is None else sent_bytes(message))


def _with_cached(
    read: int, wrote: int, total: object, parts: Mapping[str, Any]
) -> tuple[int, str | None]:
    """Give the tokens read, those of the cache among them, and why that cannot be true."""
    cached = part_of(parts, "cache_read") + cache_writing(parts)
    if cached > read:
        if total != read + cached + wrote:
            return read, f"{cached} cached tokens are reported, of {read} of all input"
        read += cached
    if (audio := part_of(parts, "audio")) > read:
        return read, f"{audio} audio tokens are reported, of {read} of all input"
    return read, None


def sent_bytes(message: BaseMessage) -> int:
    """Give the bytes of UTF-8 of all that a message says: text, reasoning, calls of tools."""
    size = len(message.text.encode(errors="replace"))
    size += len(thought_of(message).encode(errors="replace"))
    if not isinstance(message.content, str):
        size += sum(map(media_tokens, message.content))
    if isinstance(message, AIMessage):
        for call in (*message.tool_calls, *message.invalid_tool_calls):
            size += len(f"{call['name']}{call['args']}".encode(errors="replace"))
    return size


def _size_bytes(message: BaseMessage) -> int:
    """Give the bytes of what a piece of an answer holds beside its text as a string."""
    size = 0
    if thought := message.additional_kwargs.get("reasoning_content"):
        size += len(str(thought).encode(errors="replace"))
    if not isinstance(message.content, str):
        for block in message.content:
            told = block.values() if isinstance(block, Mapping) else (block,)
            size += sum(len(one.encode(errors="replace")) for one in told if isinstance(one, str))
    if isinstance(message, AIMessageChunk):
        for call in message.tool_call_chunks:
            size += len(f"{call['name'] or ''}{call['args'] or ''}".encode(errors="replace"))
    return size


def _has_media(message: BaseMessage) -> bool:
    return not isinstance(message.content, str) and any(
        isinstance(block, Mapping) and block.get("type") not in {"text", "reasoning", "thinking"}
        for block in message.content
    )
