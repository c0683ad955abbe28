"""Whatever is asked of a session in whatever order, the table says what becomes of it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.schemas.events import CheckpointSaved, SessionUpdated
from millstream.schemas.sessions.commands import SessionCommand, SessionOperation, SessionTtl
from millstream.schemas.sessions.errors import SessionBusy, SessionNotDue
from millstream.schemas.sessions.transitions import STATES, TRANSITIONS
from millstream.streams.lane.sessions.decisions import (
    NAMES_MAX,
    Decided,
    FoundCheckpoint,
    Session,
    decide,
)
from millstream.streams.wire.digests import digest_of

OPERATIONS: tuple[SessionOperation, ...] = get_args(SessionOperation)
KEY = ("default", "ada", "s")
SAVED = CheckpointSaved(
    user_id="ada", request_id="r1", session_id="s", checkpoint_id="c1", turn=1, data="AA=="
)
FOUND = FoundCheckpoint(SAVED, offset=7)
HEAD = SessionUpdated(
    user_id="ada",
    request_id="r3",
    session_id="s",
    checkpoint_id="c3",
    checkpoint_offset_min=20,
    turn=3,
    created_at_ms=5,
    at_ms=100,
)


def command(operation: SessionOperation, **more: Any) -> SessionCommand:
    needed: dict[str, Any] = {}
    if operation == "name_checkpoint":
        needed = {"turn": 1, "name": "begin"}
    if operation == "restore":
        needed = {"turn": 1}
    given = needed | more
    return SessionCommand(
        user_id="ada", session_id="s", command_id="c", operation=operation, **given
    )


def after(session: Session, decided: Decided, **more: Any) -> Session:
    return Session(
        KEY,
        state=decided.state or session.state,
        head=decided.head or session.head,
        **more,
    )


def test_the_table_knows_every_operation_in_every_state() -> None:
    assert set(TRANSITIONS) == set(OPERATIONS)
    assert all(tuple(row) == STATES for row in TRANSITIONS.values())


COMMANDS = st.sampled_from([*map(command, OPERATIONS), command("close", drain=True)])


@given(st.lists(COMMANDS, max_size=30), st.booleans())
def test_any_walk_follows_the_table(walk: list[SessionCommand], has_turns: bool) -> None:  # noqa: FBT001
    session = Session(KEY, head=HEAD if has_turns else None)
    revision = 0
    drains = False
    for at_ms, given_one in enumerate(walk, start=1000):
        operation, before = given_one.operation, session.before
        expected = TRANSITIONS[operation][before]
        decided = decide(given_one, session, at_ms=at_ms, found=FOUND)
        if not isinstance(expected, str):
            assert isinstance(decided.refused, expected)
        elif decided.refused is None:
            session = after(session, decided)
            assert session.before == expected
        else:  # what it means is not there
            assert operation == "restore"
            assert session.head is None
        if decided.state is not None:
            revision += 1
            assert decided.state.revision == revision
            assert (decided.state.since_ms == at_ms) == (expected != before) or before == "open"
        # Refused, or as it was: nothing is written.
        if operation == "close" and expected == "closed":
            # The harder of the two holds, whichever came first.
            drains = given_one.drain and (drains or before != "closed")
            assert session.state is not None
            assert session.state.barrier is not None
            assert session.state.barrier.drains == drains
        is_told = decided.change is not None
        assert is_told == (decided.state is not None and operation != "touch")


def test_a_session_that_is_closed_harder_lets_only_the_run_end_that_is_on() -> None:
    on = Session(KEY, head=HEAD, is_on=True, runs="r4", before_offset=7, until_ms=50)
    drained = decide(command("close", drain=True), on, at_ms=60)
    later = after(on, drained, is_on=True, runs="r5", before_offset=9, until_ms=70)
    assert decide(command("close", drain=True), later, at_ms=80) == Decided()
    harder = decide(command("close"), later, at_ms=80)
    assert harder.change == "closed"
    state = harder.state
    assert state is not None
    assert state.barrier is not None
    assert (state.state, state.since_ms, state.barrier.drains) == ("closed", 60, False)
    assert (state.barrier.lets_end, state.barrier.before_offset) == ("r5", 9)
    assert decide(command("close"), after(later, harder), at_ms=90) == Decided()


def test_a_restored_session_has_a_new_turn_and_the_old_checkpoint() -> None:
    decided = decide(command("restore"), Session(KEY, head=HEAD), at_ms=9, found=FOUND)
    head = decided.head
    assert head is not None
    assert (head.turn, head.checkpoint_id, head.checkpoint_offset_min) == (4, "c1", 7)
    assert (head.checkpoint_digest, head.request_id) == (digest_of(SAVED), "r1")
    assert decided.restored_turn == 1


@pytest.mark.parametrize("operation", ["restore", "expire"])
def test_a_session_of_which_a_run_is_on_is_not_moved(operation: SessionOperation) -> None:
    session = Session(KEY, head=HEAD, is_on=True, runs="r4")
    decided = decide(command(operation), session, at_ms=9, found=FOUND)
    assert isinstance(decided.refused, SessionBusy)


def test_a_time_to_live_is_over_by_the_time_that_the_command_came() -> None:
    ttl = SessionTtl(idle_s=10)
    made = decide(command("create", ttl=ttl), Session(KEY), at_ms=1_000)
    session = after(Session(KEY), made)
    early = decide(command("expire", if_due=True), session, at_ms=10_999)
    assert isinstance(early.refused, SessionNotDue)
    assert decide(command("expire", if_due=True), session, at_ms=11_000).change == "expired"
    # A turn since then moves it.
    used = Session(KEY, state=session.state, head=HEAD.model_copy(update={"at_ms": 5_000}))
    late = decide(command("expire", if_due=True), used, at_ms=11_000)
    assert isinstance(late.refused, SessionNotDue)
    touched = after(session, decide(command("touch"), session, at_ms=9_000))
    late = decide(command("expire", if_due=True), touched, at_ms=18_999)
    assert isinstance(late.refused, SessionNotDue)


def test_a_session_that_is_opened_again_after_its_whole_time_does_not_expire_at_once() -> None:
    ttl = SessionTtl(idle_s=10, total_s=20)
    session = after(Session(KEY), decide(command("create", ttl=ttl), Session(KEY), at_ms=1_000))
    session = after(session, decide(command("expire", if_due=True), session, at_ms=21_000))
    session = after(session, decide(command("reopen"), session, at_ms=30_000))
    assert session.state is not None
    assert (session.state.ttl.idle_s, session.state.ttl.total_s) == (10, None)


def opened_again(*, ended_by: SessionOperation, at_ms: int) -> SessionTtl:
    ttl = SessionTtl(idle_s=10, total_s=20)
    session = after(Session(KEY), decide(command("create", ttl=ttl), Session(KEY), at_ms=1_000))
    session = after(session, decide(command(ended_by), session, at_ms=11_000))
    state = decide(command("reopen"), session, at_ms=at_ms).state
    assert state is not None
    return state.ttl


@pytest.mark.parametrize("ended_by", ["close", "expire"])
def test_a_whole_time_is_given_up_only_once_it_is_over(ended_by: SessionOperation) -> None:
    # psr7-sessions/storageless#553: whoever came back in time was never ended any more.
    assert opened_again(ended_by=ended_by, at_ms=20_999) == SessionTtl(idle_s=10, total_s=20)
    # One that was closed when its time was over expired as soon as it was opened again.
    assert opened_again(ended_by=ended_by, at_ms=21_000) == SessionTtl(idle_s=10)


def test_names_of_checkpoints_are_few_and_name_one() -> None:
    session = Session(KEY, head=HEAD)
    for number in range(NAMES_MAX):
        named = command("name_checkpoint", name=f"n{number}")
        session = after(session, decide(named, session, at_ms=9, found=FOUND))
    again = decide(command("name_checkpoint", name="n0"), session, at_ms=9, found=FOUND)
    assert again.refused is None
    one_more = decide(command("name_checkpoint", name="more"), session, at_ms=9, found=FOUND)
    assert one_more.refused is not None
    assert one_more.refused.code == "name_taken"


def test_what_was_said_of_a_session_goes_with_it() -> None:
    made = decide(
        command("create", metadata={"customer": "7"}, ttl=SessionTtl(idle_s=5)),
        Session(KEY),
        at_ms=1,
    )
    gone = decide(command("delete"), after(Session(KEY), made, before_offset=4), at_ms=2).state
    assert gone is not None
    assert (gone.metadata, gone.names, gone.ttl) == ({}, (), SessionTtl())
    assert gone.barrier is not None
    assert (gone.barrier.before_offset, gone.barrier.cancels) == (4, True)
