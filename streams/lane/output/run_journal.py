"""The journal of one run, written: a fact is numbered and submitted in the tick in which it came.

So the order of the facts is their order on the log, and a result that is submitted behind them
cannot be committed without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pydantic_core import to_json

from millstream.schemas.journal.errors import StepTooLarge
from millstream.schemas.journal.steps import PARTS_MAX, JournalStep, RunBegan
from millstream.schemas.runs.reservations import CallReserved
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.transactions.committer import CommitRefused
from millstream.streams.wire.trace import Trace

__all__ = ["RunJournal"]

PART_CHARS_MAX: Final = 200_000
"""Of the longest characters, in JSON, they are less than the largest record."""


class RunJournal:
    """Writes the steps of one run, of which there are `steps`. The first one has `began`."""

    def __init__(
        self, writer: LaneWriter, *, began: RunBegan, steps: int, traceparent: Trace
    ) -> None:
        self._writer = writer
        self._began = began
        self.steps = steps
        self._traceparent = traceparent

    async def commit(
        self, fact: JournalStep, reserve: Callable[[], Sequence[CallReserved]] = tuple
    ) -> None:
        """Commit a fact, whose `step` is given here; returns once it is committed.

        `reserve` gives what is to be committed with it, which is folded already. Raises
        `StepTooLarge` for one that no records can hold, and `LaneLost`.
        """
        records = self._records(fact)
        self.steps += 1
        reserved = reserve()
        try:
            await self._writer.commit([*records, *reserved], self._traceparent)
        except CommitRefused:
            if reserved:
                await self._writer.replace(reserved, self._traceparent)
            raise

    def _records(self, fact: JournalStep) -> Sequence[JournalStep]:
        named = {"step": self.steps, "began": self._began if self.steps == 0 else None}
        whole = fact.model_copy(update=named)
        # Not by `orjson`, which writes no integer beyond 64 bits.
        text = "" if fact.content is None else to_json(fact.content).decode()
        if len(text) <= PART_CHARS_MAX:
            return (whole,)
        parts = [text[at : at + PART_CHARS_MAX] for at in range(0, len(text), PART_CHARS_MAX)]
        if len(parts) > PARTS_MAX:
            what = f"the answer of the tool {fact.name!r}" if fact.call_id else "a model's answer"
            message = (
                f"{what} is too long to be kept: {len(text):,} characters of JSON, and "
                f"{PARTS_MAX * PART_CHARS_MAX:,} fit; bound it by `tool_result_bytes_max` or "
                "`output_tokens_max`"
            )
            raise StepTooLarge(message)
        first = {"content": None, "parts": len(parts)}
        rest = {**first, "began": None, "used": (), "arguments": None, "moments": None}
        return [
            whole.model_copy(update={**(rest if part else first), "part": part, "text": text})
            for part, text in enumerate(parts)
        ]
