"""What a provider reports of usage: numbers that can be counts, and one report of several.

Several reports in one call are deltas if a later one has fewer input tokens or if they are all the
same with text in between; else they are running totals, of which the largest counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeGuard

from millstream.schemas.base import INT64_MAX, Usage

__all__ = [
    "Report",
    "bad_count",
    "cache_writing",
    "clean_report",
    "gathered",
    "is_count",
    "part_of",
    "summed",
    "usage_of",
]

Report = Mapping[str, Any]
"""Counts by LangChain's names: `input_tokens`, `output_tokens` and the details of each."""

# What LangChain calls these tokens of Anthropic's.
_WRITTEN_FOR_AN_HOUR: Final = "ephemeral_1h_input_tokens"


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
            if not is_count(value):
                return None, f"{name} is reported as {str(value)[:40]}"
            clean[name] = value
    if not clean:
        return None, None  # the report is to come: some servers send nulls with each chunk
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        details = report.get(name)
        if isinstance(details, Mapping):
            for part, value in details.items():
                if value is not None and not is_count(value):
                    return None, f"{part} is reported as {str(value)[:40]}"
            clean[name] = dict(details)
    return _inclusive(clean), None


def bad_count(value: object) -> object:
    """Give what of a field of a report is no number of tokens, `None` if it holds only those."""
    if isinstance(value, Mapping):
        return next((bad for each in value.values() if (bad := bad_count(each)) is not None), None)
    return None if value is None or is_count(value) else value


def _inclusive(report: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = report.get("prompt_tokens", 0), report.get("completion_tokens", 0)
    reasoning = report.get("completion_tokens_details", {}).get("reasoning_tokens") or 0
    total = report.get("total_tokens")
    if reasoning and total == prompt + completion + reasoning:
        report["completion_tokens"] = completion + reasoning
    return report


def is_count(value: object) -> TypeGuard[int]:
    """Tell whether a value is whole, not negative, and what a 64-bit integer holds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INT64_MAX


def gathered(reports: Sequence[tuple[int, Report]]) -> Report:
    """Make one report of several, each with the number of pieces that had come before it."""
    read = [told.get("input_tokens", 0) or 0 for _, told in reports]
    wrote = [told.get("output_tokens", 0) or 0 for _, told in reports]
    pieces = [before for before, _ in reports]
    all_the_same = len(set(wrote)) == 1 and pieces == sorted(set(pieces)) and wrote[0] > 0
    fell = read != sorted(read) or wrote != sorted(wrote)
    last = max(reports, key=lambda each: each[1].get("output_tokens", 0) or 0)[1]
    if not fell and not all_the_same:
        return last
    added = summed(reports)
    return {**added, "input_tokens": read[0]} if len(set(read)) == 1 else added


def summed(reports: Sequence[tuple[int, Report]]) -> Report:
    """Add up reports, each with the number of pieces that had come before it."""
    return {
        "input_tokens": sum(told.get("input_tokens", 0) or 0 for _, told in reports),
        "output_tokens": sum(told.get("output_tokens", 0) or 0 for _, told in reports),
        "input_token_details": _added(reports, "input_token_details"),
        "output_token_details": _added(reports, "output_token_details"),
    }


def _added(reports: Sequence[tuple[int, Report]], name: str) -> dict[str, int]:
    added: dict[str, int] = {}
    for _, told in reports:
        for part, value in (told.get(name) or {}).items():
            if is_count(value):
                added[part] = added.get(part, 0) + value
    return added


def usage_of(
    read: int, wrote: int, read_parts: Mapping[str, Any], wrote_parts: Mapping[str, Any]
) -> Usage:
    """Give the usage of a report's counts; no part is more than its whole."""
    if not read_parts and not wrote_parts:
        return Usage(input_tokens=read, output_tokens=wrote)
    return Usage(
        input_tokens=read,
        output_tokens=wrote,
        cache_read_tokens=min(read, part_of(read_parts, "cache_read")),
        cache_write_tokens=min(read, cache_writing(read_parts)),
        cache_write_1h_tokens=min(read, part_of(read_parts, _WRITTEN_FOR_AN_HOUR)),
        audio_input_tokens=min(read, part_of(read_parts, "audio")),
        reasoning_tokens=min(wrote, part_of(wrote_parts, "reasoning")),
        audio_output_tokens=min(wrote, part_of(wrote_parts, "audio")),
    )


def part_of(parts: Mapping[str, Any], name: str) -> int:
    """Give a part of a side's tokens by its name."""
    # LangChain puts OpenAI's service tier in front: `priority_cache_read`.
    return max((parts.get(prefix + name) or 0 for prefix in ("", "priority_", "flex_")), default=0)


def cache_writing(parts: Mapping[str, Any]) -> int:
    """Give the tokens written to the provider's cache, of whatever life."""
    written: int = sum(
        parts.get(name) or 0 for name in ("ephemeral_5m_input_tokens", _WRITTEN_FOR_AN_HOUR)
    )
    return max(written, part_of(parts, "cache_creation"))
