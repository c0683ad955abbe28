"""Where journals stand is a fold: live, restored and through a snapshot the same."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from millstream.schemas.base import Address
from millstream.schemas.journal.steps import JournalStep
from millstream.streams.lane.state.folds import SnapshotBody, packed
from millstream.streams.lane.state.journals import Journals, OpenJournal
from tests import making

KEY = ("default", "ada", "r1")


def step(number: int, request_id: str = "r1", **more: Any) -> JournalStep:
    return JournalStep(
        user_id="ada",
        request_id=request_id,
        session_id="s",
        at_ms=0,
        attempt=1000,
        step=number,
        kind="done",
        **more,
    )


def take(journals: Journals, one: JournalStep, offset: int) -> None:
    fold = journals.as_fold()
    fold.fold[JournalStep](one)
    fold.place[JournalStep](one, offset)


def test_a_journal_is_known_until_its_run_is_over() -> None:
    journals = Journals()
    for number, offset in enumerate((5, 9, 30)):
        take(journals, step(number), offset)
    take(journals, step(0, "r2"), 31)
    assert journals.open[KEY] == OpenJournal(3, 0, journals.open[KEY].offsets, began_ms=0)
    assert list(journals.open[KEY].offsets) == [5, 9, 30]
    over = making.result(source=Address(topic="requests", partition=0, offset=7))
    journals.as_fold().fold[type(over)](over)
    assert set(journals.open) == {("default", "ada", "r2")}


def test_a_journal_of_which_the_first_steps_were_not_read_is_known_to_lack_them() -> None:
    journals = Journals()
    take(journals, step(4), 90)
    assert (journals.open[KEY].begins_at, journals.open[KEY].steps) == (4, 5)


def test_a_journal_that_was_written_anew_begins_with_its_copies() -> None:
    journals = Journals()
    parts: list[dict[str, Any]] = [{"part": 0, "parts": 2}, {"part": 1, "parts": 2}]
    for offset, one in enumerate([step(0, **parts[0]), step(0, **parts[1]), step(1)]):
        take(journals, one, offset)
    for offset, one in enumerate([step(0, **parts[0]), step(0, **parts[1]), step(1)]):
        take(journals, one.model_copy(update={"renewed_ms": 7}), 50 + offset)
    take(journals, step(2), 60)
    journal = journals.open[KEY]
    assert (journal.steps, journal.begins_at, journal.began_ms) == (3, 0, 7)
    assert (list(journal.offsets), journal.begins_from) == ([50, 51, 52, 60], 50)


def test_a_journal_whose_copies_were_read_in_part_is_known_to_lack_the_others() -> None:
    journals = Journals()
    take(journals, step(0, part=1, parts=2, renewed_ms=7), 51)
    take(journals, step(1, renewed_ms=7), 52)
    assert (journals.open[KEY].begins_at, journals.open[KEY].begins_from) == (1, None)


def test_a_stage_that_runs_no_agents_keeps_no_journals() -> None:
    assert Journals().as_fold(is_kept=False).fold == {}


@given(st.lists(st.integers(0, 10**12), unique=True).map(sorted))
def test_a_snapshot_holds_all_places(offsets: list[int]) -> None:
    journals = Journals()
    for number, offset in enumerate(offsets):
        take(journals, step(number), offset)
    body = SnapshotBody(orjson.loads(packed(journals.as_fold().state())))
    again = Journals()
    again.as_fold().load(body)
    assert again == journals
    assert list(again.as_fold().canonical()) == list(journals.as_fold().canonical())
