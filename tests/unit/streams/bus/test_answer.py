"""An answer put together from tokens and a result, in whatever order they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.schemas.base import Address
from millstream.schemas.errors import AnswerAltered, AnswerGone, Misconfigured
from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.steps import AgentStep
from millstream.streams.bus.answer import (
    STEPS_HELD_MAX,
    Answer,
    Ended,
    Piece,
    Position,
    StartedAnew,
    Stepped,
    Text,
)
from millstream.streams.bus.api import Delivery
from tests import making

pytestmark = pytest.mark.promise("P3")


def token(text: str, seq: int, attempt: int = 1000) -> AgentToken:
    return making.token(request_id="r", attempt=attempt, seq=seq, text=text)


def step(seq: int, place: int = 0, attempt: int = 1000) -> AgentStep:
    return AgentStep(
        user_id="ada",
        request_id="r",
        session_id="s",
        at_ms=1,
        attempt=attempt,
        seq=seq,
        kind="tool_start",
        text_bytes=place,
    )


def result(
    output: str | None,
    attempt: int = 1000,
    *,
    last_seq: int = -1,
    text: str | None = None,
    steps: int | None = None,
) -> AgentResult:
    text = output if text is None else text
    return making.result(
        request_id="r",
        status="failed" if output is None else "completed",
        output=output,
        attempt=attempt,
        last_seq=last_seq,
        text_sha256=None if text is None else hashlib.sha256(text.encode()).hexdigest(),
        steps=steps,
    )


def delivered(event: AgentToken | AgentStep | AgentResult, offset: int = 0) -> Delivery:
    return Delivery(event, Address(topic="t", partition=0, offset=offset), 1)


@dataclass
class Shown:
    """What a consumer has on its screen, and the position that it keeps with it."""

    text: str = ""
    steps: list[AgentStep] = field(default_factory=list)
    """Those of the attempt that the text is of."""
    late: int = 0
    """Steps that came when text behind their place was shown already."""
    result: AgentResult | None = None
    position: Position = field(default_factory=Position)

    def show(self, piece: Piece) -> None:
        assert self.result is None, "nothing comes after the end"
        match piece:
            case Text(text=text):
                assert text
                self.text += text
            case StartedAnew():
                assert self.text or self.steps, "nothing was void"
                self.text, self.steps = "", []
            case Stepped(step=stepped):
                assert stepped.text_bytes <= len(self.text.encode()), "it came too early"
                self.late += stepped.text_bytes < len(self.text.encode())
                self.steps.append(stepped)
            case Ended(result=ended):
                self.result = ended
        self.position = piece.position


def in_words(pieces: Iterable[Piece]) -> list[str]:
    """Give what is shown: `!` for a new beginning, `#` and seq for a step, `.` at the end."""
    words = list[str]()
    for piece in pieces:
        match piece:
            case Text(text=text):
                words.append(text)
            case StartedAnew():
                words.append("!")
            case Stepped(step=stepped):
                words.append(f"#{stepped.seq}")
            case Ended():
                words.append(".")
    return words


def shown(*events: AgentToken | AgentStep | AgentResult, steps: bool = False) -> list[str]:
    """Take events in this order; give what is shown, in words."""
    answer = Answer(steps=steps)
    taken = (answer.take(delivered(event, offset)) for offset, event in enumerate(events))
    return in_words(piece for pieces in taken for piece in pieces)


def with_steps(*events: AgentToken | AgentStep | AgentResult) -> list[str]:
    return shown(*events, steps=True)


def test_tokens_are_shown_as_they_come_and_none_twice() -> None:
    assert shown(token("a", 0), token("a", 0), token("b", 1)) == ["a", "b"]


def test_an_announcement_makes_what_was_shown_void_before_there_is_new_text() -> None:
    assert shown(token("old", 0), token("", 0, attempt=2000)) == ["old", "!"]


def test_an_announcement_is_not_told_where_nothing_was_shown() -> None:
    assert shown(token("", 0, attempt=2000), token("new", 1, attempt=2000)) == ["new"]


def test_a_higher_attempt_starts_the_text_anew_and_a_lower_one_is_left_out() -> None:
    late = token("er", 1)
    assert shown(token("old", 0), token("new", 0, attempt=2000), late) == ["old", "!", "new"]


def test_the_result_gives_what_the_tokens_have_not_brought_yet() -> None:
    told = shown(token("a", 0), result("abc", last_seq=1), token("bc", 1))
    assert told == ["a", "bc", "."]


def test_a_result_whose_tokens_were_all_shown_adds_nothing() -> None:
    assert shown(token("abc", 0), result("abc", last_seq=0)) == ["abc", "."]


def test_a_result_of_another_attempt_replaces_what_was_shown() -> None:
    assert shown(token("abc", 0), result("abd", attempt=2000)) == ["abc", "!", "abd", "."]


def test_a_request_that_ends_without_tokens_just_ends() -> None:
    assert shown(result(None, attempt=0)) == ["."]


def test_what_was_shown_is_void_if_the_request_is_rejected_after_all() -> None:
    assert shown(token("abc", 0), result(None, attempt=0)) == ["abc", "!", "."]


def test_after_a_gap_the_rest_comes_with_the_result() -> None:
    assert shown(token("c", 2), token("d", 3), result("abcd", last_seq=3)) == ["abcd", "."]
    assert shown(token("a", 0), token("c", 2), result("abc", last_seq=2)) == ["a", "bc", "."]


def test_a_run_that_was_cut_off_ends_once_all_its_tokens_were_shown() -> None:
    cut_off = result(None, last_seq=1, text="ab")
    assert shown(token("a", 0), cut_off, token("x", 0, attempt=1), token("b", 1)) == ["a", "b", "."]
    assert shown(token("a", 0), token("b", 1), cut_off) == ["a", "b", "."]
    of_no_result = token("x", 0, attempt=2000)
    assert shown(token("a", 0), cut_off, of_no_result, token("b", 1)) == ["a", "b", "."]


def test_a_run_that_was_cut_off_and_whose_tokens_are_gone_says_so() -> None:
    with pytest.raises(AnswerGone, match="token 0 of attempt 1000"):
        shown(token("b", 1), result(None, last_seq=1, text="ab"))


@pytest.mark.parametrize(
    "altered",
    [
        result("abc", last_seq=0, text="abd"),  # not what its hash was made of
        result("xbc", last_seq=0),  # not what was shown
        result("a", last_seq=0),  # less than was shown
        result(None, last_seq=0, text="xyz"),
    ],
)
def test_a_result_with_another_text_than_was_shown_is_told(altered: AgentResult) -> None:
    with pytest.raises(AnswerAltered):
        shown(token("abc", 0), altered)


def test_a_result_with_another_text_is_told_by_a_reader_that_resumed() -> None:
    (first,) = Answer().take(delivered(token("ab", 0)))
    answer = Answer(Position.parse(str(first.position)))
    answer.take(delivered(token("c", 1), 1))
    with pytest.raises(AnswerAltered):
        answer.take(delivered(result("abd", last_seq=1)))


def test_a_reader_without_steps_passes_them_over() -> None:
    assert shown(step(0), token("a", 0), result("a", last_seq=0, steps=1)) == ["a", "."]


# coleam00/Archon#1054: calls stood below all text until the page was loaded again.
# EKKOLearnAI/hermes-studio#1145: text around a call was cut in the middle of a word.
def test_a_step_comes_where_it_stands_in_the_text() -> None:
    inside = [step(0), step(1, 2), token("abcd", 0), step(2, 4), token("e", 1)]
    ended = result("abcde", last_seq=1, steps=3)
    assert with_steps(*inside, ended) == ["#0", "ab", "#1", "cd", "#2", "e", "."]
    # The middle of a character is no place.
    assert with_steps(step(0, 1), token("ü!", 0)) == ["ü", "#0", "!"]


# ag-ui-protocol/ag-ui#1668: calls were told of once the text was over.
def test_a_step_that_is_read_behind_text_that_follows_it_comes_at_once() -> None:
    assert with_steps(token("abc", 0), step(0, 1), token("d", 1)) == ["abc", "#0", "d"]


def test_the_end_waits_for_the_steps_that_the_result_counts() -> None:
    ended = result("abc", last_seq=1, steps=2)
    told = with_steps(token("a", 0), ended, step(0), step(1, 2))
    assert told == ["a", "#0", "b", "#1", "c", "."]
    cut_off = result(None, last_seq=0, text="a", steps=1)
    assert with_steps(cut_off, token("a", 0), step(0, 1)) == ["a", "#0", "."]
    textless = result(None, steps=1)
    assert with_steps(step(0), textless) == ["#0", "."]
    assert with_steps(textless, step(0)) == ["#0", "."]


def test_steps_that_are_gone_are_given_up() -> None:
    answer = Answer(steps=True)
    ended = result("abc", last_seq=0, steps=3)
    told = [*answer.take(delivered(step(1, 2))), *answer.take(delivered(ended))]
    assert answer.steps_missing == 1
    assert in_words([*told, *answer.give_up_steps()]) == ["ab", "#1", "c", "."]
    assert answer.give_up_steps() == ()


def test_a_step_of_a_higher_attempt_makes_void_what_was_shown() -> None:
    void = (step(0), token("old", 0), step(1, 9), step(0, attempt=2000))
    late = (token("er", 1), step(2, 3), token("", 0, attempt=2000), step(1, 2, attempt=2000))
    new = (token("new", 1, attempt=2000), result("new", 2000, last_seq=1, steps=2))
    told = with_steps(*void, *late, *new)
    assert told == ["#0", "old", "!", "#0", "ne", "#1", "w", "."]
    # Also where nothing but steps was shown.
    assert with_steps(step(0), token("", 0, attempt=2000)) == ["#0", "!"]


def test_steps_come_at_once_where_the_text_before_them_is_not_there() -> None:
    told = with_steps(step(3, 7), token("x", 5), step(4, 9), result("abcdefghix", last_seq=5))
    assert told == ["#3", "#4", "abcdefghix", "."]


def test_no_more_steps_are_read_than_are_held() -> None:
    answer = Answer(steps=True)
    for seq in range(STEPS_HELD_MAX):
        assert answer.may_read_steps
        assert answer.take(delivered(step(seq, 1), seq)) == ()
    assert not answer.may_read_steps
    assert len(answer.take(delivered(token("a", 0)))) == 1 + STEPS_HELD_MAX
    assert answer.may_read_steps


def test_a_position_is_carried_as_text() -> None:
    with_steps = Position(3, 14, 15, 9000, 2, 65, 4_294_967_295, False, 16, 7, 3)
    assert Position.parse(str(with_steps)) == with_steps
    # As readers gave it that knew no steps.
    assert str(Position(3, 14)) == "1.3.14.0.-1.0.0.0.0"
    position = Position(3, 14, 15, 9000, 2, 65, 4_294_967_295, ended=True)
    assert Position.parse(str(position)) == position
    assert Position.parse(str(Position())) == Position()
    assert str(position).isascii()


@pytest.mark.parametrize(
    "text", ["", "1.2", "1.2.3.4.5.6.7.x.0", "2.0.0.0.0.0.0.0.0", "3.0.0.0.0.0.0.0.0.0.0.0"]
)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="position"):
        Position.parse(text)


@dataclass(frozen=True)
class Case:
    """Topics with all that an owner and its zombie wrote, and the result behind it."""

    tokens: list[AgentToken]
    steps: list[AgentStep]
    result: AgentResult


T = TypeVar("T")

pieces_of_text = st.lists(st.text(min_size=1, max_size=3), max_size=6)


def written(draw: st.DrawFn, attempts: list[list[T]]) -> list[T]:
    """Write attempts, each cut off by the next, with late records of older ones and repeated."""
    topic: list[T] = []
    zombies: list[T] = []
    for number, records in enumerate(attempts):
        last = number == len(attempts) - 1
        in_time = len(records) if last else draw(st.integers(0, len(records)))
        for record in records[:in_time]:
            topic.append(record)
            # One that is sent again stands behind what came in between.
            while draw(st.integers(0, 5)) == 5:
                topic.append(draw(st.sampled_from(topic)))
            while zombies and draw(st.booleans()):
                topic.append(zombies.pop(0))
        zombies += records[in_time:]
    return topic + zombies


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Attempts with text, and steps anywhere in it."""
    attempts = draw(st.lists(pieces_of_text, min_size=1, max_size=3))
    tokens: list[list[AgentToken]] = []
    steps: list[list[AgentStep]] = []
    for number, texts in enumerate(attempts):
        attempt = 1000 * (number + 1)
        announced = ["", *texts] if number else texts
        tokens.append([token(text, seq, attempt) for seq, text in enumerate(announced)])
        characters = st.integers(0, len("".join(texts)))
        places = sorted(draw(st.lists(characters, max_size=4)))
        steps.append(
            [
                step(seq, len("".join(texts)[:place].encode()), attempt)
                for seq, place in enumerate(places)
            ]
        )
    texts = attempts[-1]
    output = "".join(texts)
    last_seq = len(texts) - 1 + (len(attempts) > 1)
    cut_off = draw(st.booleans()) and last_seq >= 0
    ended = result(
        None if cut_off else output,
        1000 * len(attempts),
        last_seq=last_seq,
        text=output,
        steps=len(steps[-1]) or None,
    )
    return Case(written(draw, tokens), written(draw, steps), ended)


def read_on(
    case: Case, seen: Shown, data: st.DataObject, *, steps: bool = False, steps_first: bool = False
) -> Iterable[Piece]:
    """Read the topics from where `seen` stands, in an order that only hypothesis knows."""
    answer = Answer(Position.parse(str(seen.position)), steps=steps)
    place = answer.position
    topics: list[list[tuple[int, AgentToken | AgentStep | AgentResult]]] = [
        list(enumerate(case.steps))[place.steps_offset :] if steps else [],
        list(enumerate(case.tokens))[place.tokens_offset :],
        list(enumerate([case.result]))[place.results_offset :],
    ]
    while any(topics):
        ready = [topic for topic in topics if topic]
        first = steps_first and bool(topics[0])
        at = 0 if first else data.draw(st.integers(0, len(ready) - 1), label="source")
        offset, event = ready[at].pop(0)
        yield from answer.take(delivered(event, offset))


def read_by_many(case: Case, data: st.DataObject, **how: bool) -> Shown:
    """Read an answer by readers, one after the other, each from where the last one stood."""
    seen = Shown()
    for number in range(13):
        for piece in read_on(case, seen, data, **how):
            seen.show(piece)
            # Another process goes on from here, whatever this one had read ahead.
            if number < 12 and data.draw(st.integers(0, 4), label="resume") == 0:
                break
        if seen.result is not None:
            break
    assert seen.result == case.result
    sha256 = hashlib.sha256(seen.text.encode()).hexdigest()
    assert sha256 == case.result.text_sha256
    # One that resumes behind the end has nothing to say.
    assert list(read_on(case, seen, data, **how)) == []
    return seen


@given(cases(), st.data())
def test_however_it_is_read_the_text_is_the_results(case: Case, data: st.DataObject) -> None:
    assert read_by_many(case, data).steps == []


@given(cases(), st.data())
def test_however_it_is_read_each_step_of_the_results_attempt_comes_once(
    case: Case, data: st.DataObject
) -> None:
    seen = read_by_many(case, data, steps=True)
    assert [one.seq for one in seen.steps] == list(range(case.result.steps or 0))
    assert {one.attempt for one in seen.steps} <= {case.result.attempt}


@given(cases(), st.data())
def test_steps_that_are_read_before_their_text_come_in_their_place(
    case: Case, data: st.DataObject
) -> None:
    seen = read_by_many(case, data, steps=True, steps_first=True)
    assert seen.late == 0
