"""What the server of steps saw, against what stands on the topics: each fault in words.

The order of what was seen is the server's clock against the broker's: both are this machine's.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.topics import JOURNAL
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode
from tests.chaos.steps.script import TOOLS, calls_of
from tests.chaos.steps.server import READ_TOKENS
from tests.harness.audit import Asked, Records
from tests.harness.lane_common import places_of, records_of
from tests.harness.lanes import reader

__all__ = [
    "Fact",
    "Seen",
    "StepCall",
    "asked_as_ended",
    "faults",
    "read_journal",
    "read_seen",
    "repeated",
]


@dataclass(frozen=True, slots=True)
class StepCall:
    """A call that the server saw begin; `number` is its place in its run."""

    request_id: str
    number: int
    what: str
    at_ms: float
    call_id: str | None = None
    key: str | None = None
    shown: tuple[str, ...] = ()
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """Calls in the order in which they began, and how often was done what a call is for."""

    calls: tuple[StepCall, ...]
    effects: Counter[str]

    def times(self) -> Counter[tuple[str, int]]:
        """Count how often each call of each run began."""
        return Counter((one.request_id, one.number) for one in self.calls)


@dataclass(frozen=True, slots=True)
class Fact:
    """A record of the journal, and when the broker took it."""

    step: JournalStep
    at_ms: int


def read_seen(log: Path) -> Seen:
    """Read the server's log."""
    calls: dict[int, StepCall] = {}
    effects: Counter[str] = Counter()
    for text in log.read_text(encoding="utf-8").splitlines():
        line: dict[str, Any] = json.loads(text)
        match line["event"]:
            case "start":
                calls[line["call"]] = StepCall(
                    request_id=line["request_id"],
                    number=line["number"],
                    what=line["what"],
                    at_ms=line["at_ms"],
                    call_id=line.get("call_id"),
                    key=line.get("key"),
                    shown=tuple(line.get("shown", ())),
                )
            case "end":
                calls[line["call"]] = replace(calls[line["call"]], finished=line["finished"])
            case _:
                effects[line["key"]] += 1
    return Seen(tuple(calls.values()), effects)


async def read_journal(settings: Settings) -> tuple[Fact, ...]:
    """Read all that is committed on the journal, each run's records in their order."""
    records = await records_of(reader(settings), places_of(settings, JOURNAL))
    return tuple(Fact(decode(one, JournalStep), one.timestamp) for one in records)


def asked_as_ended(load: Iterable[Asked], records: Records) -> tuple[Asked, ...]:
    """Give what was asked for, with the end of those that failed since nobody knows of a call."""
    doubted = {
        one.request_id: one.output
        for one in records.results
        if one.reason is not None and one.reason.code == "in_doubt"
    }
    return tuple(
        replace(one, fails=True, answer=doubted[one.request_id])
        if one.request_id in doubted
        else one
        for one in load
    )


def faults(seen: Seen, journal: Sequence[Fact], records: Records) -> Iterator[str]:
    """Name all else that contradicts what is promised of runs whose workers are lost."""
    yield from _without_intent(seen, journal)
    yield from _done_twice(seen)
    yield from _shown_otherwise(seen)
    yield from _misnumbered(journal)
    yield from _billed_otherwise(journal, records)
    yield from _doubted_without_cause(journal, records)


def repeated(seen: Seen, journal: Sequence[Fact], records: Records) -> Iterator[str]:
    """Name each finished call that was made again."""
    yield from _again(seen, journal, records)
    yield from _went_back(seen)


def _recorded_ms(
    seen: Seen, journal: Iterable[Fact], records: Records
) -> dict[tuple[str, int], float]:
    """Give when each call was on the log, by its run and number."""
    numbers = {
        (one.request_id, one.call_id): one.number for one in seen.calls if one.call_id is not None
    }
    answers: Counter[str] = Counter()
    found: dict[tuple[str, int], float] = {}
    for fact in journal:
        name = fact.step.request_id
        if fact.step.part:
            continue
        if fact.step.kind == "answered":
            found.setdefault((name, 2 * answers[name]), fact.at_ms)
            answers[name] += 1
        elif fact.step.kind == "done" and (name, fact.step.call_id or "") in numbers:
            found.setdefault((name, numbers[name, fact.step.call_id or ""]), fact.at_ms)
    for result in records.results:
        for number in range(_calls_of(result.request_id)):
            found.setdefault((result.request_id, number), result.at_ms)
    return found


def _calls_of(request_id: str) -> int:
    return calls_of(request_id) if request_id.count(".") == 2 else 1


def _again(seen: Seen, journal: Iterable[Fact], records: Records) -> Iterator[str]:
    recorded_ms = _recorded_ms(seen, journal, records)
    for one in seen.calls:
        at_ms = recorded_ms.get((one.request_id, one.number))
        if at_ms is not None and one.at_ms > at_ms + 1:  # the broker counts whole milliseconds
            yield (
                f"{one.request_id}: call {one.number} ({one.what}) was made "
                f"{one.at_ms - at_ms:.0f} ms after its answer was on the log"
            )


def _went_back(seen: Seen) -> Iterator[str]:
    """A call behind which its run went on, as the server saw it, is finished for good."""
    furthest: dict[str, int] = defaultdict(lambda: -1)
    for one in seen.calls:
        if one.number < furthest[one.request_id]:
            after = furthest[one.request_id]
            yield f"{one.request_id}: call {one.number} ({one.what}) was made behind call {after}"
        furthest[one.request_id] = max(furthest[one.request_id], one.number)


def _without_intent(seen: Seen, journal: Iterable[Fact]) -> Iterator[str]:
    intents = {
        (fact.step.request_id, fact.step.call_id): fact
        for fact in reversed(tuple(journal))
        if fact.step.kind == "intent"
    }
    for one in seen.calls:
        if TOOLS.get(one.what, "read_only") == "read_only":
            continue
        told = f"{one.request_id}: call {one.number} ({one.what})"
        fact = intents.get((one.request_id, one.call_id))
        if fact is None or fact.at_ms > one.at_ms:
            yield f"{told} was made, and its intent was not on the log"
        elif (fact.step.key, fact.step.name) != (one.key, one.what):
            yield f"{told} had the key {one.key}, its intent {fact.step.key} for {fact.step.name}"


def _done_twice(seen: Seen) -> Iterator[str]:
    yield from (f"done {count} times: {key}" for key, count in seen.effects.items() if count > 1)
    keys: dict[tuple[str, int], set[str]] = defaultdict(set)
    asked: Counter[tuple[str, int]] = Counter()
    for one in seen.calls:
        if one.key is not None and TOOLS[one.what] != "read_only":
            keys[one.request_id, one.number].add(one.key)
            asked[one.request_id, one.number] += TOOLS[one.what] == "ask_human"
    for (name, number), of_call in keys.items():
        if len(of_call) > 1:
            yield f"{name}: call {number} had {len(of_call)} keys"
        if asked[name, number] > 1:
            yield f"{name}: call {number} was made twice, and only a person may decide that"


def _shown_otherwise(seen: Seen) -> Iterator[str]:
    shown: dict[str, tuple[str, ...]] = {}
    for one in seen.calls:
        before = shown.get(one.request_id, ())
        if any(was != now for was, now in zip(before, one.shown, strict=False)):
            yield f"{one.request_id}: the model was shown {before}, then {one.shown}"
        shown[one.request_id] = max(before, one.shown, key=len)


def _misnumbered(journal: Iterable[Fact]) -> Iterator[str]:
    steps: dict[str, list[int]] = defaultdict(list)
    for fact in journal:
        if fact.step.part == 0:
            steps[fact.step.request_id].append(fact.step.step)
    for name, numbers in steps.items():
        if numbers != list(range(len(numbers))):
            yield f"{name}: its journal has the steps {numbers}"


def _billed_otherwise(journal: Iterable[Fact], records: Records) -> Iterator[str]:
    answered = Counter(one.step.request_id for one in journal if one.step.kind == "answered")
    attempts = Counter(one.request_id for one in records.attempts)
    exact: dict[str, list[int]] = defaultdict(list)
    guessed: Counter[str] = Counter()
    for cost in records.costs:
        if cost.estimated:
            guessed[cost.request_id] += 1
        else:
            exact[cost.request_id].append(cost.usage.input_tokens)
    for result in records.results:
        name = result.request_id
        if name.count(".") != 2:
            continue
        made = answered[name] + (result.status == "completed")
        wanted = [READ_TOKENS + number for number in range(made)]
        if sorted(exact[name]) != wanted:
            yield f"{name}: calls of {sorted(exact[name])} tokens are billed, not of {wanted}"
        # An attempt that did not complete its run was lost, with a call under way perhaps.
        lost = attempts[name] - (result.status == "completed")
        if guessed[name] > lost:
            yield f"{name}: {guessed[name]} estimates, and {lost} attempts were lost"


def _doubted_without_cause(journal: Iterable[Fact], records: Records) -> Iterator[str]:
    """Only a call that only a person can judge, and that gave no answer, is a cause."""
    begun: dict[str, set[str | None]] = defaultdict(set)
    for fact in journal:
        step = fact.step
        if step.kind == "intent" and step.effect == "ask_human":
            begun[step.request_id].add(step.call_id)
        elif step.kind == "done":
            begun[step.request_id].discard(step.call_id)
    for result in records.results:
        is_doubted = result.reason is not None and result.reason.code == "in_doubt"
        if is_doubted != bool(begun[result.request_id]):
            open_calls = sorted(map(str, begun[result.request_id]))
            yield f"{result.request_id}: {result.status} {result.reason} with {open_calls} begun"
