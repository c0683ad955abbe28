"""An answer put together from tokens and a result, in whatever order they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.schemas.base import Address
from millstream.schemas.errors import AnswerAltered, AnswerGone, Misconfigured
from millstream.schemas.events import AgentResult, AgentToken
from millstream.streams.bus.answer import Answer, Ended, Piece, Position, StartedAnew, Text
from millstream.streams.bus.api import Delivery
from tests import making

pytestmark = pytest.mark.promise("P3")


def token(text: str, seq: int, attempt: int = 1000) -> AgentToken:
    return making.token(request_id="r", attempt=attempt, seq=seq, text=text)


def result(
    output: str | None, attempt: int = 1000, *, last_seq: int = -1, text: str | None = None
) -> AgentResult:
    text = output if text is None else text
    return making.result(
        request_id="r",
        status="failed" if output is None else "completed",
        output=output,
        attempt=attempt,
        last_seq=last_seq,
        text_sha256=None if text is None else hashlib.sha256(text.encode()).hexdigest(),
    )


def delivered(event: AgentToken | AgentResult, offset: int = 0) -> Delivery:
    return Delivery(event, Address(topic="t", partition=0, offset=offset), 1)


@dataclass
class Shown:
    """What a consumer has on its screen, and the position that it keeps with it."""

    text: str = ""
    result: AgentResult | None = None
    position: Position = field(default_factory=Position)

    def show(self, piece: Piece) -> None:
        assert self.result is None, "nothing comes after the end"
        match piece:
            case Text(text=text):
                assert text
                self.text += text
            case StartedAnew():
                assert self.text, "nothing was void"
                self.text = ""
            case Ended(result=ended):
                self.result = ended
        self.position = piece.position


def shown(*events: AgentToken | AgentResult) -> list[str]:
    """Take events in this order; give what is shown, `!` for a new beginning, `.` at the end."""
    answer, words = Answer(), list[str]()
    for offset, event in enumerate(events):
        for piece in answer.take(delivered(event, offset)):
            match piece:
                case Text(text=text):
                    words.append(text)
                case StartedAnew():
                    words.append("!")
                case Ended():
                    words.append(".")
    return words


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


def test_a_position_is_carried_as_text() -> None:
    position = Position(3, 14, 15, 9000, 2, 65, 4_294_967_295, ended=True)
    assert Position.parse(str(position)) == position
    assert Position.parse(str(Position())) == Position()
    assert str(position).isascii()


@pytest.mark.parametrize("text", ["", "1.2", "1.2.3.4.5.6.7.x.0", "2.0.0.0.0.0.0.0.0"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="position"):
        Position.parse(text)


@dataclass(frozen=True)
class Case:
    """A tokens topic with all that an owner and its zombie wrote, and the result behind it."""

    tokens: list[AgentToken]
    result: AgentResult


pieces_of_text = st.lists(st.text(min_size=1, max_size=3), max_size=6)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Attempts, each cut off by the next one, with late records of older ones and repeated ones."""
    attempts = draw(st.lists(pieces_of_text, min_size=1, max_size=3))
    topic: list[AgentToken] = []
    zombies: list[AgentToken] = []
    for number, texts in enumerate(attempts):
        announced = ["", *texts] if number else texts
        records = [token(text, seq, 1000 * (number + 1)) for seq, text in enumerate(announced)]
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
    texts = attempts[-1]
    output = "".join(texts)
    last_seq = len(texts) - 1 + (len(attempts) > 1)
    cut_off = draw(st.booleans()) and last_seq >= 0
    ended = result(
        None if cut_off else output, 1000 * len(attempts), last_seq=last_seq, text=output
    )
    return Case(topic + zombies, ended)


def read_on(case: Case, seen: Shown, data: st.DataObject) -> Iterable[Piece]:
    """Read both topics from where `seen` stands, in an order that only hypothesis knows."""
    answer = Answer(Position.parse(str(seen.position)))
    tokens = list(enumerate(case.tokens))[seen.position.tokens_offset :]
    results = [case.result][seen.position.results_offset :]
    while tokens or results:
        if tokens and (not results or data.draw(st.integers(0, 3), label="source")):
            offset, event = tokens.pop(0)
            yield from answer.take(delivered(event, offset))
        else:
            yield from answer.take(delivered(results.pop(0)))


@given(cases(), st.data())
def test_however_it_is_read_the_text_is_the_results(case: Case, data: st.DataObject) -> None:
    seen = Shown()
    for _ in range(12):  # readers, one after the other
        pieces = iter(read_on(case, seen, data))
        for piece in pieces:
            seen.show(piece)
            # Another process goes on from here, whatever this one had read ahead.
            if data.draw(st.integers(0, 4), label="resume") == 0:
                break
        if seen.result is not None:
            break
    else:
        for piece in read_on(case, seen, data):
            seen.show(piece)
    assert seen.result == case.result
    sha256 = hashlib.sha256(seen.text.encode()).hexdigest()
    assert sha256 == case.result.text_sha256
    # One that resumes behind the end has nothing to say.
    assert list(read_on(case, seen, data)) == []
