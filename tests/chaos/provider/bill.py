"""What users were charged, against what the provider itself counted; and what was done twice."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from millstream.schemas.events import AgentResult, CostRecorded
from tests.chaos.provider.script import Script
from tests.harness.audit import Asked

NOTES = "notes.log"
"""Where a worker's tool with an effect notes its calls, in the worker's data folder."""

READ_MICROS = 1
WROTE_MICROS = 2
"""Of a token: a dollar and two for a million, as the policy has it."""


@dataclass(frozen=True, slots=True)
class Billed:
    """One model call, as the provider counted it."""

    request_id: str
    started_ms: float
    read: int
    wrote: int
    told: bool
    not_before_ms: float | None

    @property
    def micros(self) -> int:
        """What the provider would ask for it."""
        return self.read * READ_MICROS + self.wrote * WROTE_MICROS


@dataclass(frozen=True, slots=True)
class Bill:
    """What came of a comparison: `faults` in words, and sums in micros.

    `exact` requests were charged what the provider counted, as it told all of it; `estimated` ones
    at least that, but for those `under` it.
    """

    exact: int
    estimated: int
    under: int
    asked_micros: int
    charged_micros: int
    faults: tuple[str, ...]

    def __str__(self) -> str:
        """Tell it in a line."""
        ratio = self.charged_micros / self.asked_micros if self.asked_micros else 1.0
        return (
            f"the bill: {self.exact} requests exact, {self.estimated} estimated at {ratio:.1f} "
            f"times what the provider counted, {self.under} under it"
        )


def read_bill(log: Path) -> tuple[Billed, ...]:
    """Read the provider's log: the calls that are over, in the order in which they began."""
    begun: dict[int, dict[str, object]] = {}
    for text in log.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        begun.setdefault(line["call"], {}).update(
            {"started_ms": line["at_ms"]} if line["event"] == "start" else {}, **line
        )
    return tuple(
        Billed(**{name: call[name] for name in Billed.__dataclass_fields__})  # type: ignore[arg-type]
        for call in begun.values()
        if "read" in call
    )


def compare(calls: Iterable[Billed], costs: Iterable[CostRecorded]) -> Bill:
    """Compare each request's cost records with its calls."""
    of_request: dict[str, list[Billed]] = defaultdict(list)
    for call in calls:
        of_request[call.request_id].append(call)
    charged: dict[str, list[CostRecorded]] = defaultdict(list)
    for cost in costs:
        charged[cost.request_id].append(cost)
    exact = estimated = under = asked_micros = charged_micros = 0
    faults = []
    for name, counted in of_request.items():
        read, wrote = sum(one.read for one in counted), sum(one.wrote for one in counted)
        booked = charged[name]
        taken = sum(one.usage.input_tokens for one in booked)
        given = sum(one.usage.output_tokens for one in booked)
        micros = sum(one.cost_micros for one in booked)
        said = (
            f"{name}: charged {taken} + {given} tokens, {micros} micros; counted {read} + {wrote}"
        )
        wanted = sum(one.micros for one in counted)
        if all(one.told for one in counted):
            exact += 1
            if (taken, given, micros) != (read, wrote, wanted) or any(x.estimated for x in booked):
                faults.append(f"{said}, and all of it was told")
            continue
        estimated += 1
        asked_micros += wanted
        charged_micros += micros
        if taken < read or given < wrote or micros < wanted:
            under += 1
            faults.append(f"{said}: that is under it")
        elif (taken, given) != (read, wrote) and not any(one.estimated for one in booked):
            faults.append(f"{said}, and no record says that it is an estimate")
    return Bill(exact, estimated, under, asked_micros, charged_micros, tuple(faults))


def came_back_early(calls: Sequence[Billed]) -> tuple[str, ...]:
    """Name calls that were made before the provider said that it may be asked again."""
    wait: dict[str, float] = {}
    early = []
    for call in calls:
        before_ms = wait.pop(call.request_id, None)
        if before_ms is not None and call.started_ms < before_ms:
            early.append(f"{call.request_id} was called {before_ms - call.started_ms:.0f} ms early")
        if call.not_before_ms is not None:
            wait[call.request_id] = call.not_before_ms
    return tuple(early)


def noted_wrongly(load: Iterable[Asked], notes: Iterable[Path]) -> tuple[str, ...]:
    """Name requests whose tool with an effect ran more or less often than it was called."""
    made: Counter[str] = Counter()
    for file in notes:
        made.update(file.read_text(encoding="utf-8").split())
    wanted = {one.request_id: Script.of(one.request_id).fate.notes for one in load}
    return tuple(
        f"{name} was noted {made[name]} times, not {times}"
        for name, times in wanted.items()
        if made[name] != times
    )


def ended_otherwise(load: Iterable[Asked], results: Iterable[AgentResult]) -> tuple[str, ...]:
    """Name requests that ended for another reason than their script has."""
    wanted = {one.request_id: Script.of(one.request_id).fate.code for one in load}
    return tuple(
        f"{one.request_id} ended {code!r}, not {wanted[one.request_id]!r}: {one.reason}"
        for one in results
        if (code := "" if one.reason is None else one.reason.code)
        != wanted.get(one.request_id, code)
    )
