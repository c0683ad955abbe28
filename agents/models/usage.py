"""Whether a provider's report of usage can be true, and what is taken instead where it cannot.

A report is what a model call is charged by, and comes from outside. Rules:

- Several reports in one call are deltas if a later one has fewer input tokens or if they are all
  the same with text in between; else they are running totals, of which the largest counts.
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
from typing import Any, Final, TypeGuard

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from millstream.agents.models.thoughts import thought_of
from millstream.schemas.base import INT64_MAX, Usage

__all__ = ["DOUBT", "ModelCall", "bad_count", "clean_report"]

DOUBT: Final = "usage_doubt"
"""In a chunk's or message's metadata: why its provider's report was not believed."""

INPUT_ALLOWANCE: Final = 1_024
"""Tokens that a provider may put into a prompt itself: a preamble for tools, the chat's format."""

FRAME_TOKENS: Final = 16
"""Tokens taken for what a chat's format puts around each message."""

OUTPUT_ALLOWANCE: Final = 64
REASONING_TOKENS_MAX: Final = 131_072

_LIMITS: Final = (
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"),
    "num_predict",
)
"""What providers' classes call a limit of output, among the parameters of a call."""

_DELTAS: Final = frozenset({"google_genai"})
"""Providers whose running totals LangChain makes differences of, from one chunk to the next."""

_Report = Mapping[str, Any]


def clean_report(report: object) -> tuple[dict[str, Any] | None, str | None]:
    """Give a report of chat completions with whole numbers only, and why it cannot be true.

    Reasoning that only the total holds (xAI) is added to the output.
    """
    if not isinstance(report, Mapping):
        return None, f"usage is reported as {type(report).__name__}"
    clean: dict[str, Any] = {}
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        value = report.get(name)
        if value is not None:
            if not _is_count(value):
                return None, f"{name} is reported as {str(value)[:40]}"
            clean[name] = value
    if not clean:
        return None, None  # the report is to come: some servers send nulls with each chunk
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        details = report.get(name)
        if isinstance(details, Mapping):
            for part, value in details.items():
                if value is not None and not _is_count(value):
                    return None, f"{part} is reported as {str(value)[:40]}"
            clean[name] = dict(details)
    return _inclusive(clean), None


def bad_count(value: object) -> object:
    """Give what of a field of a report is no number of tokens, `None` if it holds only those."""
    if isinstance(value, Mapping):
        return next((bad for each in value.values() if (bad := bad_count(each)) is not None), None)
    return None if value is None or _is_count(value) else value


def _inclusive(report: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = report.get("prompt_tokens", 0), report.get("completion_tokens", 0)
    reasoning = report.get("completion_tokens_details", {}).get("reasoning_tokens") or 0
    total = report.get("total_tokens")
    if reasoning and total == prompt + completion + reasoning:
        report["completion_tokens"] = completion + reasoning
    return report


def _is_count(value: object) -> TypeGuard[int]:
    # Whole, and what a 64-bit integer holds.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INT64_MAX


class ModelCall:
    """One model call under way: what it sent, what came back, what was reported of it.

    `is_own`: it is the agent's, and what it writes is the agent's voice; `has_spoken` once it wrote
    text. `model` is the name of any other's model.
    """

    __slots__ = (
        *(
            "_are_deltas",
            "_params",
            "_reports",
            "doubt",
            "has_spoken",
            "is_own",
            "messages",
            "model",
            "pieces",
        ),
        "received_bytes",
    )

    def __init__(
        self,
        messages: Sequence[BaseMessage],
        params: Mapping[str, Any],
        *,
        is_own: bool = True,
        model: str | None = None,
    ) -> None:
        self.messages = messages
        self.is_own = is_own
        self.model = model
        self.has_spoken = False
        self.pieces = 0
        self.received_bytes = 0
        self.doubt: str | None = None
        self._params = params
        self._are_deltas = False
        # Each with the number of pieces of text that had come before it.
        self._reports: list[tuple[int, _Report]] = []

    def report(self, told: _Report, provider: str | None = None) -> None:
        """Take in a report of usage. `provider` is what LangChain calls the model's provider."""
        self._are_deltas = self._are_deltas or provider in _DELTAS
        self._reports.append((self.pieces, told))

    def told(self) -> _Report | None:
        """Give what the call's reports come to, `None` if there is none."""
        if len(self._reports) == 1:
            return self._reports[0][1]
        if self._are_deltas:
            return _summed(self._reports)
        return _gathered(self._reports) if self._reports else None

    @property
    def asked_output_tokens_max(self) -> int:
        """The limit of output that the call was made with, 0 where it names none."""
        for name in _LIMITS:
            limit = self._params.get(name)
            if _is_count(limit):
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
        self.received_bytes += size
        self.pieces += size > 0
        return size > 0

    def estimate(self, output_tokens: int) -> Usage:
        """Give what the call can have used at most by what was sent, and this much of output."""
        return Usage(input_tokens=self._input_max(FRAME_TOKENS), output_tokens=output_tokens)

    def broken_off(self, output_tokens_max: int, *, is_over: bool) -> Usage:
        """Give an estimate of what a call used that has no answer.

        It may go on to `output_tokens_max`, unless its provider ended it: then it wrote no more
        than came. What it reported counts where it can be true.
        """
        told = self.told() or {}
        read, wrote = told.get("input_tokens"), told.get("output_tokens")
        written = max(self.received_bytes, output_tokens_max)
        if is_over or not output_tokens_max:
            seen = self.received_bytes + OUTPUT_ALLOWANCE
            written = min(seen, written) if output_tokens_max else seen
        if _is_count(wrote) and self._why_not_written(wrote, 0, None, written) is None:
            written = max(written, wrote)
        if _is_count(read) and self._why_not_read(read) is None:
            parts = told.get("input_token_details") or {}
            known = all(each is None or _is_count(each) for each in parts.values())
            return _usage(read, written, parts if known else {}, {})
        return self.estimate(written)

    def believed(
        self, told: _Report | None, message: BaseMessage | None, output_tokens_max: int
    ) -> tuple[Usage, str | None]:
        """Give the usage to charge for a call that has ended, and why it is an estimate, if it is.

        `told` is its report, `message` its answer, `output_tokens_max` the most it may write, 0
        where nobody knows.
        """
        if told is None or self.doubt is not None:
            written = self._written(message)
            why = self.doubt or "the model's provider did not report what was used"
            return self.estimate(written + OUTPUT_ALLOWANCE), why
        read, wrote = told.get("input_tokens", 0), told.get("output_tokens", 0)
        read_parts = told.get("input_token_details") or {}
        wrote_parts = told.get("output_token_details") or {}
        plain = not (read_parts or wrote_parts) and type(read) is type(wrote) is int
        # As most are: of a size that needs no counting.
        if plain and 0 < read <= INPUT_ALLOWANCE and 0 < wrote <= output_tokens_max:
            return Usage(input_tokens=read, output_tokens=wrote), None
        numbers = (read, wrote, *read_parts.values(), *wrote_parts.values())
        if not all(each is None or _is_count(each) for each in numbers):
            bad = next(each for each in numbers if each is not None and not _is_count(each))
            return self._instead(message, f"usage is reported as {str(bad)[:40]} tokens")
        reasoning = _part(wrote_parts, "reasoning")
        read, why_read = _with_cached(read, wrote, told.get("total_tokens"), read_parts)
        why_read = why_read or self._why_not_read(read)
        why_wrote = self._why_not_written(wrote, reasoning, message, output_tokens_max)
        if why_read is None and why_wrote is None:
            return _usage(read, wrote, read_parts, wrote_parts), None
        # Parts of a figure that is not believed are not either.
        return (
            Usage(
                input_tokens=read if why_read is None else self._input_max(FRAME_TOKENS),
                output_tokens=(
                    wrote if why_wrote is None else self._written(message) + OUTPUT_ALLOWANCE
                ),
            ),
            why_read or why_wrote,
        )

    def _instead(self, message: BaseMessage | None, why: str) -> tuple[Usage, str]:
        return self.estimate(self._written(message) + OUTPUT_ALLOWANCE), why

    def _why_not_read(self, tokens: int) -> str | None:
        if not tokens:
            return "0 input tokens are reported"
        if tokens > INPUT_ALLOWANCE and tokens > (most := self._input_max(INPUT_ALLOWANCE)):
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
        sent = sum(_sent_bytes(each) for each in self.messages)
        # Tools, schemas and what else is described: by other names in each dialect.
        for value in self._params.values():
            if value and isinstance(value, Mapping | Sequence) and not isinstance(value, str):
                sent += len(str(value).encode(errors="replace"))
        return sent + frame_tokens * (len(self.messages) + 1)

    def _written(self, message: BaseMessage | None) -> int:
        return max(self.received_bytes, 0 if message is None else _sent_bytes(message))


def _with_cached(
    read: int, wrote: int, total: object, parts: Mapping[str, Any]
) -> tuple[int, str | None]:
    """Give the tokens read, those of the cache among them, and why that cannot be true."""
    cached = _part(parts, "cache_read") + _cache_writing(parts)
    if cached > read:
        if total != read + cached + wrote:
            return read, f"{cached} cached tokens are reported, of {read} of all input"
        read += cached
    if (audio := _part(parts, "audio")) > read:
        return read, f"{audio} audio tokens are reported, of {read} of all input"
    return read, None


def _gathered(reports: Sequence[tuple[int, _Report]]) -> _Report:
    """Make one report of several: see the module's docstring."""
    read = [told.get("input_tokens", 0) or 0 for _, told in reports]
    wrote = [told.get("output_tokens", 0) or 0 for _, told in reports]
    pieces = [before for before, _ in reports]
    all_the_same = len(set(wrote)) == 1 and pieces == sorted(set(pieces)) and wrote[0] > 0
    fell = read != sorted(read) or wrote != sorted(wrote)
    last = max(reports, key=lambda each: each[1].get("output_tokens", 0) or 0)[1]
    if not fell and not all_the_same:
        return last
    summed = _summed(reports)
    return {**summed, "input_tokens": read[0]} if len(set(read)) == 1 else summed


def _summed(reports: Sequence[tuple[int, _Report]]) -> _Report:
    return {
        "input_tokens": sum(told.get("input_tokens", 0) or 0 for _, told in reports),
        "output_tokens": sum(told.get("output_tokens", 0) or 0 for _, told in reports),
        "input_token_details": _added(reports, "input_token_details"),
        "output_token_details": _added(reports, "output_token_details"),
    }


def _added(reports: Sequence[tuple[int, _Report]], name: str) -> dict[str, int]:
    added: dict[str, int] = {}
    for _, told in reports:
        for part, value in (told.get(name) or {}).items():
            if _is_count(value):
                added[part] = added.get(part, 0) + value
    return added


def _usage(
    read: int, wrote: int, read_parts: Mapping[str, Any], wrote_parts: Mapping[str, Any]
) -> Usage:
    if not read_parts and not wrote_parts:
        return Usage(input_tokens=read, output_tokens=wrote)
    return Usage(
        input_tokens=read,
        output_tokens=wrote,
        cache_read_tokens=min(read, _part(read_parts, "cache_read")),
        cache_write_tokens=min(read, _cache_writing(read_parts)),
        audio_input_tokens=min(read, _part(read_parts, "audio")),
        reasoning_tokens=min(wrote, _part(wrote_parts, "reasoning")),
        audio_output_tokens=min(wrote, _part(wrote_parts, "audio")),
    )


def _part(parts: Mapping[str, Any], name: str) -> int:
    # LangChain puts OpenAI's service tier in front: `priority_cache_read`.
    return max((parts.get(prefix + name) or 0 for prefix in ("", "priority_", "flex_")), default=0)


def _cache_writing(parts: Mapping[str, Any]) -> int:
    written: int = sum(
        parts.get(name) or 0 for name in ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
    )
    return max(written, _part(parts, "cache_creation"))


def _sent_bytes(message: BaseMessage) -> int:
    """Give the bytes of UTF-8 of all that a message says: text, reasoning, calls of tools."""
    size = len(message.text.encode(errors="replace"))
    size += len(thought_of(message).encode(errors="replace"))
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
