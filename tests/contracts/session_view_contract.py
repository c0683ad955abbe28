"""What every `SessionStore` shows of sessions; a subclass gives the store as the fixture `store`.

Its clock stands at 0, and it keeps `CHECKPOINTS_MAX` checkpoints of a session.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from millstream.agents.sessions.manager import (
    ANY_SESSION,
    SessionFilter,
    SessionInfo,
    SessionOrder,
    SessionStats,
    SessionStore,
)
from millstream.schemas.sessions.commands import SessionTtl
from millstream.schemas.sessions.states import LifecycleState, NamedCheckpoint, SessionState
from tests import making
from tests.contracts.session_store_contract import checkpoint, result

CHECKPOINTS_MAX = 4

# Names of which one might be taken for another, for a key's end, or for a pattern.
ODD = [
    "a",
    "а",  # noqa: RUF001  the Cyrillic one
    "a:b",
    "a}:sessions",
    "{a}",
    "}{",
    "a*",
    "[a]",
    "a%3Ab",
    "places",
    "checkpoint:a",
    "x" * 256,
    "ä" * 256,
]


def state(
    session: str = "s",
    *,
    user: str = "ada",
    revision: int = 1,
    now: LifecycleState = "open",
    at_ms: int = 1000,
    **given: object,
) -> SessionState:
    facts: dict[str, object] = {
        "user_id": user,
        "session_id": session,
        "state": now,
        "revision": revision,
        "created_at_ms": 1000,
        "since_ms": at_ms,
        "active_at_ms": 1000,
        "at_ms": at_ms,
    }
    return SessionState.model_validate(facts | given)


async def everything(
    store: SessionStore,
    *,
    limit: int = 3,
    order: SessionOrder = "newest",
    wanted: SessionFilter = ANY_SESSION,
) -> AsyncIterator[SessionInfo]:
    after = None
    while True:
        page = await store.list(
            "default", "ada", limit=limit, after=after, order=order, wanted=wanted
        )
        for session in page.sessions:
            yield session
        after = page.after
        if after is None:
            return


async def names(
    store: SessionStore, *, order: SessionOrder = "newest", wanted: SessionFilter = ANY_SESSION
) -> list[str]:
    return [one.session_id async for one in everything(store, order=order, wanted=wanted)]


class SessionViewContract:
    async def test_a_session_that_was_created_is_shown_before_its_first_turn(
        self, store: SessionStore
    ) -> None:
        ttl = SessionTtl(idle_s=60, total_s=100)
        assert await store.put_state(state(ttl=ttl, metadata={"customer": "c1"}))
        shown = await store.get("default", "ada", "s")
        assert shown is not None
        assert (shown.state, shown.revision, shown.turn) == ("open", 1, 0)
        assert (shown.created_at_ms, shown.updated_at_ms, shown.since_ms) == (1000, 1000, 1000)
        assert (shown.ttl, shown.expires_at_ms) == (ttl, 61_000)
        assert shown.metadata == {"customer": "c1"}
        assert shown.last_request_id is None
        assert await names(store) == ["s"]

    async def test_a_turn_puts_off_the_end_of_an_idle_session_and_its_total_time_does_not(
        self, store: SessionStore
    ) -> None:
        await store.put_state(state(ttl=SessionTtl(idle_s=60, total_s=100)))
        await store.put_head(making.head(at_ms=30_000, session_id="s"), 1)
        shown = await store.get("default", "ada", "s")
        assert shown is not None
        assert shown.expires_at_ms == 90_000
        await store.put_head(making.head(at_ms=90_000, session_id="s"), 2)
        shown = await store.get("default", "ada", "s")
        assert shown is not None
        assert shown.expires_at_ms == 101_000

    async def test_a_session_that_is_not_open_does_not_expire(self, store: SessionStore) -> None:
        await store.put_state(state(ttl=SessionTtl(idle_s=60), now="closed"))
        shown = await store.get("default", "ada", "s")
        assert shown is not None
        assert shown.expires_at_ms is None

    async def test_a_head_tells_template_size_and_cost(self, store: SessionStore) -> None:
        head = making.head(
            session_id="s",
            turn=4,
            template="chat_agent",
            checkpoint_bytes=321,
            cost_micros=55,
            created_at_ms=500,
            at_ms=4000,
        )
        assert await store.put_head(head, 9)
        assert not await store.put_head(head.model_copy(update={"turn": 3}), 8)
        assert not await store.put_head(head.model_copy(update={"turn": 5}), 9)
        shown = await store.get("default", "ada", "s")
        assert shown is not None
        assert (shown.turn, shown.template, shown.checkpoint_bytes) == (4, "chat_agent", 321)
        assert (shown.cost_micros, shown.created_at_ms, shown.updated_at_ms) == (55, 500, 4000)
        assert (shown.state, shown.revision, shown.since_ms) == ("open", 0, 500)

    async def test_an_older_revision_changes_nothing(self, store: SessionStore) -> None:
        await store.put_state(state(revision=10, now="closed"))
        assert not await store.put_state(state(revision=9))
        assert not await store.put_state(state(revision=10))
        shown = await store.get("default", "ada", "s")
        assert shown is not None
        assert (shown.state, shown.revision) == ("closed", 10)

    async def test_what_is_heard_in_another_order_is_the_same_session(
        self, store: SessionStore
    ) -> None:
        heard = [
            lambda name: store.put_state(state(name, revision=1)),
            lambda name: store.put_state(state(name, revision=2, now="closed", at_ms=9000)),
            lambda name: store.put_head(making.head(session_id=name, turn=1, at_ms=2000), 3),
            lambda name: store.put_head(making.head(session_id=name, turn=2, at_ms=3000), 4),
            lambda name: store.put_checkpoint(checkpoint(name, turn=1), 3),
            lambda name: store.put_checkpoint(checkpoint(name, turn=2), 4),
            lambda name: store.note_result(result(name), 2),
        ]
        dice = random.Random(7)  # noqa: S311  no secret
        shown = []
        for number in range(20):
            dice.shuffle(heard)
            for put in heard:
                await put(f"s{number}")
            one = await store.get("default", "ada", f"s{number}")
            assert one is not None
            kept = await store.checkpoints("default", "ada", f"s{number}")
            facts = (one.state, one.turn, one.created_at_ms, one.updated_at_ms, one.last_status)
            shown.append((*facts, *(each.turn for each in kept)))
        assert set(shown) == {("closed", 2, 1000, 3000, "completed", 2, 1)}

    async def test_a_deleted_session_is_forgotten_at_once_and_nothing_late_brings_it_back(
        self, store: SessionStore
    ) -> None:
        await store.put_checkpoint(checkpoint(), 1)
        await store.put_head(making.head(session_id="s"), 1)
        await store.put_state(state(metadata={"secret": "word"}))
        assert await store.put_state(state(revision=2, now="deleted"))
        assert not await store.put_checkpoint(checkpoint(turn=2), 2)
        assert not await store.put_head(making.head(session_id="s", turn=2), 2)
        assert not await store.note_result(result(), 9)
        assert not await store.put_state(state(revision=1))
        assert await store.get("default", "ada", "s") is None
        assert await store.get_checkpoint("default", "ada", "s") is None
        assert await store.checkpoints("default", "ada", "s") == ()
        assert await names(store) == []
        assert await store.stats("default", "ada") == SessionStats()

    async def test_a_session_of_the_id_of_one_that_the_log_has_forgotten_is_another(
        self, store: SessionStore
    ) -> None:
        await store.put_state(state(revision=7, now="deleted"))
        assert await store.put_state(state(created_at_ms=2000))
        assert await store.put_checkpoint(checkpoint(), 1)
        assert await names(store) == ["s"]

    async def test_pages_are_newest_or_oldest_first_by_when_sessions_were_created(
        self, store: SessionStore
    ) -> None:
        for number in range(7):
            await store.put_state(state(f"s{number}", created_at_ms=100 + number // 3))
        assert await names(store) == [f"s{number}" for number in range(6, -1, -1)]
        assert await names(store, order="oldest") == [f"s{number}" for number in range(7)]

    async def test_more_sessions_of_one_millisecond_than_a_page_holds_are_all_shown(
        self, store: SessionStore
    ) -> None:
        for number in range(20):
            await store.put_state(state(f"s{number:02}"))
        assert await names(store, order="oldest") == [f"s{number:02}" for number in range(20)]

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    async def test_pages_neither_skip_nor_repeat_while_sessions_change(
        self, store: SessionStore, order: SessionOrder
    ) -> None:
        count = 1000
        for number in range(count):
            await store.put_head(
                making.head(session_id=f"s{number}", created_at_ms=number // 7, at_ms=number), 1
            )
        dice = random.Random(3)  # noqa: S311  no secret
        seen: list[str] = []
        deleted: set[str] = set()
        async for one in everything(store, limit=37, order=order):
            seen.append(one.session_id)
            other = f"s{dice.randrange(count)}"
            created = int(other[1:]) // 7
            match dice.randrange(4):
                case 0:
                    head = making.head(
                        session_id=other, created_at_ms=created, at_ms=9000 + len(seen), turn=2
                    )
                    await store.put_head(head, 2 + len(seen))
                case 1:
                    await store.put_state(
                        state(
                            other,
                            now="closed",
                            created_at_ms=created,
                            at_ms=9000,
                            revision=1 + len(seen),
                        )
                    )
                case 2 if len(deleted) < 50:
                    deleted.add(other)
                    await store.put_state(
                        state(
                            other,
                            now="deleted",
                            created_at_ms=created,
                            revision=5000,
                        )
                    )
                case _:
                    pass
        assert len(seen) == len(set(seen))
        assert {f"s{number}" for number in range(count)} - deleted <= set(seen)

    async def test_a_filter_is_by_state_template_metadata_and_time(
        self, store: SessionStore
    ) -> None:
        await store.put_state(state("open1", created_at_ms=10, metadata={"team": "a", "x": "1"}))
        await store.put_state(state("closed1", now="closed", created_at_ms=20))
        await store.put_state(state("open2", created_at_ms=30, metadata={"team": "b"}))
        head = making.head(session_id="turned", template="t", created_at_ms=40, at_ms=7000)
        await store.put_head(head, 1)
        for wanted, found in [
            (SessionFilter(state="closed"), ["closed1"]),
            (SessionFilter(state="expired"), []),
            (SessionFilter(state="open"), ["turned", "open2", "open1"]),
            (SessionFilter(template="t"), ["turned"]),
            (SessionFilter(template="other"), []),
            (SessionFilter(metadata={"team": "a"}), ["open1"]),
            (SessionFilter(metadata={"team": "a", "x": "2"}), []),
            (SessionFilter(metadata={"nobody": ""}), []),
            (SessionFilter(created_from_ms=20, created_before_ms=40), ["open2", "closed1"]),
            (SessionFilter(created_before_ms=10), []),
            (SessionFilter(used_from_ms=7000), ["turned"]),
            (SessionFilter(used_before_ms=7000), ["open2", "closed1", "open1"]),
            (SessionFilter(state="open", metadata={"team": "b"}), ["open2"]),
        ]:
            assert await names(store, wanted=wanted) == found, wanted

    async def test_a_cursor_of_another_user_order_or_filter_is_refused(
        self, store: SessionStore
    ) -> None:
        for user in ("ada", "eve"):
            for number in range(3):
                await store.put_state(state(f"s{number}", user=user))
        after = (await store.list("default", "eve", limit=1)).after
        assert after is not None
        for user, order, wanted in [
            ("ada", "newest", ANY_SESSION),
            ("eve", "oldest", ANY_SESSION),
            ("eve", "newest", SessionFilter(state="open")),
        ]:
            with pytest.raises(ValueError, match="leave the cursor out"):
                await store.list(
                    "default",
                    user,
                    limit=1,
                    after=after,
                    order=order,  # type: ignore[arg-type]
                    wanted=wanted,
                )
        page = await store.list("default", "eve", limit=9, after=after)
        assert [one.session_id for one in page.sessions] == ["s1", "s0"]

    async def test_names_that_look_alike_are_sessions_of_their_own(
        self, store: SessionStore
    ) -> None:
        for number, name in enumerate(ODD):
            await store.put_state(state(name, created_at_ms=number))
            await store.put_head(making.head(session_id=name, turn=number + 1), 1)
        assert await names(store, order="oldest") == ODD
        await store.put_state(state(ODD[0], now="deleted", created_at_ms=0, revision=2))
        assert await names(store, order="oldest") == ODD[1:]
        for number, name in enumerate(ODD[1:], start=2):
            shown = await store.get("default", "ada", name)
            assert shown is not None
            assert shown.turn == number

    async def test_checkpoints_are_those_of_the_session_newest_first_with_their_names(
        self, store: SessionStore
    ) -> None:
        await store.put_checkpoint(checkpoint("other"), 5)
        for turn in (1, 2, 3):
            await store.put_checkpoint(checkpoint(turn=turn), 10 * turn)
        await store.put_checkpoint(checkpoint(turn=2), 20)
        named = NamedCheckpoint(name="good", checkpoint_id="s-c2", turn=2, offset_min=20)
        unseen = NamedCheckpoint(name="first", checkpoint_id="s-c0", turn=1, offset_min=1)
        await store.put_state(state(names=(named, unseen)))
        kept = await store.checkpoints("default", "ada", "s")
        assert [(one.turn, one.offset, one.names, one.is_head) for one in kept] == [
            (3, 30, (), True),
            (2, 20, ("good",), False),
            (1, 10, (), False),
            (1, 1, ("first",), False),
        ]
        assert [one.request_id for one in kept] == ["s-r3", "s-r2", "s-r1", None]
        assert kept[0].checkpoint_bytes == len(checkpoint().data)
        assert kept[0].at_ms == 3000
        assert not any(one.left for one in kept)

    async def test_a_checkpoint_that_was_written_anew_is_shown_once_and_is_no_turn(
        self, store: SessionStore
    ) -> None:
        for turn in (1, 2):
            await store.put_checkpoint(checkpoint(turn=turn), 10 * turn)
        copy = checkpoint(turn=2).model_copy(update={"renewed_ms": 9000})
        await store.put_checkpoint(copy, 50)
        told = {"request_id": "s-r2", "checkpoint_id": "s-c2", "created_at_ms": 1000}
        await store.put_head(making.head(session_id="s", turn=2, **told), 60)
        kept = await store.checkpoints("default", "ada", "s")
        assert [(one.turn, one.is_head, one.at_ms) for one in kept] == [
            (2, True, 2000),
            (1, False, 1000),
        ]
        shown = await store.get("default", "ada", "s")
        assert shown is not None
        assert (shown.turn, shown.last_request_id, shown.created_at_ms) == (2, "s-r2", 1000)
        stored = await store.get_checkpoint("default", "ada", "s")
        assert stored is not None
        assert stored.offset == 50

    async def test_turns_that_a_restore_went_back_from_are_shown_as_left(
        self, store: SessionStore
    ) -> None:
        for turn in (1, 2, 3):
            parent = f"s-c{turn - 1}" if turn > 1 else None
            event = checkpoint(turn=turn).model_copy(update={"parent_id": parent})
            await store.put_checkpoint(event, 10 * turn)
        restored = making.head(session_id="s", turn=4, checkpoint_id="s-c1", at_ms=5000)
        await store.put_head(restored, 40)
        shown = await store.get("default", "ada", "s")
        assert shown is not None
        assert (shown.turn, shown.checkpoint_id) == (4, "s-c1")
        kept = await store.checkpoints("default", "ada", "s")
        assert [(one.turn, one.is_head, one.left) for one in kept] == [
            (3, False, True),
            (2, False, True),
            (1, True, False),
        ]

    async def test_a_session_shows_so_many_checkpoints_at_most(self, store: SessionStore) -> None:
        for turn in range(1, CHECKPOINTS_MAX + 3):
            await store.put_checkpoint(checkpoint(turn=turn), turn)
        kept = await store.checkpoints("default", "ada", "s")
        assert [one.turn for one in kept] == [6, 5, 4, 3]

    async def test_checkpoints_of_nobody_are_none(self, store: SessionStore) -> None:
        await store.put_checkpoint(checkpoint(), 1)
        assert await store.checkpoints("default", "eve", "s") == ()
        assert await store.checkpoints("default", "ada", "nope") == ()

    async def test_stats_add_up_a_users_sessions_and_everybodys(self, store: SessionStore) -> None:
        before = await store.stats_of_all()
        head = making.head(session_id="a", turn=3, cost_micros=5, checkpoint_bytes=100, at_ms=8000)
        await store.put_head(head.model_copy(update={"created_at_ms": 600}), 1)
        await store.put_state(state("b", now="closed"))
        await store.put_state(state("c", now="expired"))
        await store.put_state(state("gone", now="deleted"))
        await store.put_state(state("d", user="eve"))
        assert await store.stats("default", "ada") == SessionStats(
            open=1,
            closed=1,
            expired=1,
            turns=3,
            checkpoint_bytes=100,
            cost_micros=5,
            oldest_at_ms=600,
            newest_at_ms=8000,
        )
        assert await store.stats("default", "nobody") == SessionStats()
        everybody = await store.stats_of_all()
        assert (everybody.open, everybody.turns) == (before.open + 2, before.turns + 3)
