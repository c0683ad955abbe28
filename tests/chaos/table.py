"""One row per scenario, and the table of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from tests.chaos.waits import Wait
from tests.harness.audit import Verdict

_TOLD_MAX = 10
_CHARS_MAX = 400


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a scenario. Calls are those that the model's own process counted."""

    name: str
    verdict: Verdict
    calls_out_of_order: tuple[str, ...]
    calls_finished: int
    calls_repeated: tuple[str, ...]
    resumed_after_s: tuple[float, ...]
    handed_over_s: tuple[float, ...]
    crashes: int
    faults: tuple[str, ...]
    blows: tuple[str, ...]
    told: tuple[str, ...]
    counted: Mapping[str, int]
    longest_waits: tuple[Wait, ...]
    machine_load: float
    waited_s: tuple[float, ...]
    duration_s: float

    @property
    def out_of_order(self) -> tuple[str, ...]:
        """Runs out of their session's order, by their results or by the model's calls."""
        return self.verdict.out_of_order + self.calls_out_of_order

    @property
    def ok(self) -> bool:
        """Whether all held."""
        kinds = (self.verdict.faults, self.calls_out_of_order, self.calls_repeated, self.faults)
        return not any(kinds)


def told_waits(row: Row) -> Iterable[str]:
    """Tell how long those waited who asked one thing after the other beside a flood."""
    waited = row.waited_s
    if waited:
        yield (
            f"beside the flood: {len(waited)} answers, p50 {waited[len(waited) // 2]:.2f} s, "
            f"p99 {waited[len(waited) * 99 // 100]:.2f} s, longest {waited[-1]:.2f} s"
        )


def told_faults(row: Row) -> Iterable[str]:
    """Tell what did not hold, up to ten lines of each kind."""
    kinds = {
        "lost": row.verdict.lost,
        "twice": row.verdict.twice,
        "out of order": row.out_of_order,
        "repeated": row.calls_repeated,
        "wrong text": row.verdict.wrong_text,
        "uncharged": row.verdict.uncharged,
        "failed": row.faults,
    }
    for kind, found in kinds.items():
        yield from (f"{kind}: {_cut(what)}" for what in found[:_TOLD_MAX])
        if len(found) > _TOLD_MAX:
            yield f"{kind}: and {len(found) - _TOLD_MAX} more"


def _cut(what: str) -> str:
    """Leave out the middle of what is too long to read: an answer may be."""
    half = _CHARS_MAX // 2
    return what if len(what) <= _CHARS_MAX else f"{what[:half]} … {what[-half:]}"


def as_table(rows: Sequence[Row], session_timeout_s: float) -> Table:
    """Make the table; the time to the first resumed run stands beside the session's time-out.

    What only some scenarios count has a column if one of them is there.
    """
    table = Table(caption=f"resumed: seconds from SIGKILL to the first run that is taken up, "
                          f"each; the session time-out is {session_timeout_s:g} s. longest wait: "
                          f"seconds from a request to its result")  # fmt: skip
    table.add_column("scenario")
    more = tuple(dict.fromkeys(what for row in rows for what in row.counted))
    for heading in (
        "requests", "results", "lost", "twice", "out of order", "wrong text", "uncharged",
        "superseded", "longest wait", "calls finished", "repeated", "crashes", *more, "resumed",
        "s", "",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in rows:
        verdict = row.verdict
        figures = (
            verdict.requests, verdict.results, len(verdict.lost), len(verdict.twice),
            len(row.out_of_order), len(verdict.wrong_text),
            len(verdict.uncharged), verdict.superseded,
            f"{verdict.longest_wait_s:.1f}", row.calls_finished,
            len(row.calls_repeated), row.crashes, *(row.counted.get(what, "-") for what in more),
        )  # fmt: skip
        resumed = " ".join(f"{seconds:.1f}" for seconds in row.resumed_after_s)
        table.add_row(
            row.name,
            *map(str, figures),
            resumed or "-",
            f"{row.duration_s:.0f}",
            "held" if row.ok else "FAILED",
        )
    return table
