"""One user's flood makes no lane forget what another user said."""

from __future__ import annotations

from millstream.schemas.lane_events import CommandObeyed
from millstream.schemas.sessions.states import SessionAnswered
from millstream.streams.lane.state.sessions.answers import ANSWERS_MAX, SessionAnswers
from millstream.streams.lane.state.sessions.cancelled import CANCELS_MAX, CancelledSessions
from millstream.streams.lane.state.sessions.fair_memory import FairMemory
from tests.making.events import SOURCE

ADA, BOB = ("default", "ada"), ("default", "bob")


def test_a_flood_of_cancels_makes_no_other_users_cancel_forgotten() -> None:
    cancelled = CancelledSessions()
    cancelled.cancel((*ADA, "s"), 1000)
    for number in range(CANCELS_MAX + 2):
        cancelled.fold(
            CommandObeyed(
                user_id="bob",
                source=SOURCE,
                command="cancel",
                session_id=f"s{number}",
                until_ms=2000,
            )
        )
    assert cancelled.covers((*ADA, "s"), 1000)
    assert len(cancelled.all) == CANCELS_MAX
    assert cancelled.until((*BOB, "s2")) is None
    assert cancelled.until((*BOB, "s3")) == 2000


def test_a_flood_of_commands_makes_no_other_users_answer_forgotten() -> None:
    answers = SessionAnswers()
    for number, user_id in enumerate(["ada"] + ["bob"] * (ANSWERS_MAX + 2)):
        answers.fold(
            SessionAnswered(
                user_id=user_id, command_id=f"c{number}", operation="touch", source=SOURCE
            )
        )
    assert answers.get((*ADA, "c0")) is not None
    assert answers.get((*BOB, "c3")) is None
    assert answers.get((*BOB, "c4")) is not None


def test_of_users_who_have_as_many_the_oldest_goes() -> None:
    memory = FairMemory[int](3)
    for number, key in enumerate([(*ADA, "a"), (*BOB, "a"), ("t", "eve", "a"), (*BOB, "a")]):
        memory.put(key, number)
    memory.put(("t", "ian", "a"), 4)
    assert [value for _, value in memory.items()] == [2, 3, 4]
    memory.put((*BOB, "b"), 5)
    memory.forget(("t", "nobody", "a"))
    assert [value for _, value in memory.items()] == [2, 4, 5]
