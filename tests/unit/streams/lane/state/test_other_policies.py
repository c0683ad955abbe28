"""A snapshot outlives a policy: only what the policy changes is folded anew, and it is exact."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import pytest

from millstream.middleware.base import AgentMiddleware, MiddlewareContext, MiddlewareResult
from millstream.middleware.policy import Policy
from millstream.schemas.base import Event
from millstream.schemas.errors import HistoryGone
from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.topics import DECISIONS
from tests.harness.deployment import IDS_MAX, Deployment

pytestmark = [pytest.mark.rule(3), pytest.mark.promise("P8")]


def policy(rate: str, *, cap: int = 4000, users: str = "") -> Policy:
    return Policy.from_yaml(
        f"""
        roles: {{all: {{templates: ["*"]}}}}
        defaults: {{roles: [all], rate: {rate}, spend: {{micros_per_day: {cap}}}}}
        {users}
        prices: {{local: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}}}
        """,
        "p",
    )


BASE = policy("{requests: 5, window_s: 2}")

OTHERS = {
    "caps": (policy("{requests: 5, window_s: 2}", cap=9), ()),
    "prices": (
        Policy.from_yaml("defaults: {rate: {requests: 5, window_s: 2}}", "p"),
        (),
    ),
    "roles": (
        Policy.from_yaml(
            """
            roles: {some: {templates: ["*"]}}
            defaults: {roles: [some], rate: {requests: 5, window_s: 2}}
            """,
            "p",
        ),
        (),
    ),
    "fewer requests": (policy("{requests: 2, window_s: 2}"), ()),
    "a shorter window": (policy("{requests: 5, window_s: 1}"), ()),
    "no rate": (policy("unlimited"), ()),
    "more requests": (policy("{requests: 50, window_s: 2}"), ("rate_limit",)),
    "a longer window": (policy("{requests: 5, window_s: 60}"), ("rate_limit",)),
    "more of a user": (
        policy(
            "{requests: 5, window_s: 2}", users="users: {u1: {rate: {requests: 8, window_s: 2}}}"
        ),
        ("rate_limit",),
    ),
    "less of a user": (
        policy(
            "{requests: 5, window_s: 2}", users="users: {u1: {rate: {requests: 3, window_s: 2}}}"
        ),
        (),
    ),
    "no rate for a user": (
        policy("{requests: 5, window_s: 2}", users="users: {u1: {rate: unlimited}}"),
        (),
    ),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("change", OTHERS)
async def test_a_snapshot_serves_another_policy_as_the_window_does(change: str, seed: int) -> None:
    other, anew = OTHERS[change]
    deployment = Deployment(seed, snapshot_records=1_000_000)
    async with deployment.lane(BASE) as lane:
        await lane.play(deployment.chance, 200, deployment.clock)
        await lane.settled()
        await lane.snapshots.close(20)
        await lane.play(deployment.chance, 40 * seed, deployment.clock)
    state, restored = await deployment.restored(other)
    assert restored.snapshot is not None
    # Where nobody was at the limit, a greater one finds all that it counts.
    assert restored.refolded in {anew, ()}
    assert state.digests() == (await deployment.folded_whole(other)).digests()


async def test_a_change_of_caps_reads_nothing_again() -> None:
    deployment = Deployment(1, snapshot_records=1_000_000)
    async with deployment.lane(BASE) as lane:
        await lane.play(deployment.chance, 300, deployment.clock)
        await lane.settled()
        await lane.snapshots.close(20)
    _, restored = await deployment.restored(OTHERS["caps"][0])
    assert (restored.tail_records, restored.refolded) == (0, ())


async def test_greater_rates_read_the_decisions_of_their_own_window_alone() -> None:
    deployment = Deployment(1, snapshot_records=1_000_000)
    async with deployment.lane(BASE) as lane:
        await lane.play(deployment.chance, 300, deployment.clock)
        await lane.settled()
        deployment.clock.tick(3_600_000)
        decided = deployment.end(DECISIONS)
        await lane.play(deployment.chance, 300, deployment.clock, new_share=1.0)
        await lane.settled()
        await lane.snapshots.close(20)
    other, _ = OTHERS["more requests"]
    state, restored = await deployment.restored(other)
    assert restored.refolded == ("rate_limit",)
    late = [one for one in deployment.records(DECISIONS) if one.offset >= decided]
    assert 0 < restored.tail_records == len(late)
    assert state.digests() == (await deployment.folded_whole(other)).digests()


async def test_through_policies_that_come_and_go_each_owner_knows_what_the_window_says() -> None:
    """As of public reports of limiters: a window that changed, a rate that went and came back.

    3scale/APIcast 667: a changed window was passed over, and a limit that was taken back and given
    again began where it had been left. brandur/redis-cell 54: more was allowed, and all refused.
    nuetzliches/hookaido 239: each reload filled every bucket anew.
    """
    deployment = Deployment(5, snapshot_records=50)
    order = (
        "more requests",
        "caps",
        "no rate",
        "fewer requests",
        "a longer window",
        "more of a user",
    )
    for change in (*order, *reversed(order)):
        other, _ = OTHERS[change]
        state, restored = await deployment.restored(other)
        assert state.digests() == (await deployment.folded_whole(other)).digests()
        async with deployment.lane(other) as lane:
            assert lane.state.digests()["layers"] == state.digests()["layers"]
            await lane.play(deployment.chance, 120, deployment.clock)
            await lane.settled()
            await lane.snapshots.close(20)
    assert restored.snapshot is not None


def short_of_ids(seed: int, **bound: int) -> Deployment:
    """Give a deployment that remembers fewer ids, or for less time, than can be set."""
    deployment = Deployment(seed, snapshot_records=1_000_000)
    deployment.settings = deployment.settings.model_copy(update=bound)
    return deployment


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("now", "anew"),
    [
        ({"dedup_window_s": 1}, ()),
        ({"dedup_ids_max": 30}, ()),
        ({"dedup_window_s": 8}, ("ids",)),
        ({"dedup_window_s": 8, "dedup_ids_max": 40}, ("ids",)),
    ],
    ids=str,
)
async def test_ids_are_remembered_as_the_settings_say_now(
    now: dict[str, int], anew: tuple[str, ...], seed: int
) -> None:
    deployment = short_of_ids(seed, dedup_window_s=3)
    async with deployment.lane(BASE) as lane:
        await lane.play(deployment.chance, 400, deployment.clock, new_share=1.0)
        await lane.settled()
        await lane.snapshots.close(20)
        await lane.play(deployment.chance, 30 * seed, deployment.clock, new_share=1.0)
    state, restored = await deployment.restored(BASE, **now)
    assert restored.snapshot is not None
    assert restored.refolded == anew
    assert state.digests() == (await deployment.folded_whole(BASE, **now)).digests()
    deployment.settings = deployment.settings.model_copy(update=now)
    async with deployment.lane(BASE) as lane:
        await lane.play(deployment.chance, 100, deployment.clock, new_share=1.0)
        await lane.settled()
        await lane.snapshots.close(20)
        live = lane.state.digests()
    state, restored = await deployment.restored(BASE)
    assert (restored.tail_records, restored.refolded) == (0, ())
    assert state.digests() == live


async def test_more_ids_than_before_are_read_where_some_were_forgotten() -> None:
    deployment = short_of_ids(2, dedup_ids_max=50)
    async with deployment.lane(BASE) as lane:
        await lane.play(deployment.chance, 400, deployment.clock, new_share=1.0)
        await lane.settled()
        await lane.snapshots.close(20)
    state, restored = await deployment.restored(BASE, dedup_ids_max=IDS_MAX)
    assert restored.refolded == ("ids",)
    whole = await deployment.folded_whole(BASE, dedup_ids_max=IDS_MAX)
    assert state.digests() == whole.digests()
    assert len(state.seen) > 50


class Counting(AgentMiddleware):
    """Counts what it is told of each user; what it goes by is up to the test."""

    name = "counting"
    priority = 35
    folds: ClassVar[frozenset[type[Event]]] = frozenset({Decision, AgentResult})
    history_ms = 86_400_000
    under = "1"

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:
        return super().admit(context)

    def fold(self, event: Event) -> None:
        self.counts[event.user_id] = self.counts.get(event.user_id, 0) + 1

    @property
    def folded_under(self) -> str:
        return self.under

    def state(self) -> dict[str, int]:
        return dict(self.counts)

    def load(self, state: Any) -> None:
        self.counts = dict(state)


class OfAnotherMind(Counting):
    under = "2"


class Odd(Counting):
    under = cast("str", 7)

    def can_load(self, state: Any, folded_under: str) -> bool:
        raise RuntimeError((state, folded_under))


class Forgetful(AgentMiddleware):
    """Folds, and gives no state."""

    name = "forgetful"
    priority = 36
    folds: ClassVar[frozenset[type[Event]]] = frozenset({AgentResult})
    history_ms = 86_400_000

    def __init__(self) -> None:
        super().__init__()
        self.heard = 0

    def fold(self, event: Event) -> None:  # noqa: ARG002
        self.heard += 1

    def canonical(self) -> int:
        return self.heard


LAYERS: dict[str, tuple[type[AgentMiddleware], ...]] = {
    "none": (),
    "counting": (Counting,),
    "of another mind": (OfAnotherMind,),
    "odd": (Odd,),
    "without state": (Forgetful, Counting),
}


@pytest.mark.parametrize(
    ("before", "after", "anew"),
    [
        ("none", "counting", ("counting",)),
        ("counting", "none", ()),
        ("counting", "counting", ()),
        ("counting", "of another mind", ("counting",)),
        ("counting", "odd", ("counting",)),
        ("odd", "odd", ()),
        ("counting", "without state", ("forgetful",)),
        ("without state", "without state", ("forgetful",)),
    ],
)
async def test_a_layer_of_an_app_that_comes_goes_or_changes_costs_itself_alone(
    before: str, after: str, anew: tuple[str, ...]
) -> None:
    """As of savepoints: an operator that is no more made them useless (apache/flink 2712, 7595)."""
    deployment = Deployment(3, snapshot_records=1_000_000, layers=LAYERS[before])
    async with deployment.lane(BASE) as lane:
        await lane.play(deployment.chance, 200, deployment.clock)
        await lane.settled()
        await lane.snapshots.close(20)
        await lane.play(deployment.chance, 60, deployment.clock)
    deployment.layers = LAYERS[after]
    state, restored = await deployment.restored(BASE)
    assert restored.snapshot is not None
    assert restored.refolded == anew
    assert state.digests() == (await deployment.folded_whole(BASE)).digests()


async def test_what_is_to_be_folded_anew_and_was_removed_is_named_as_of_offsets() -> None:
    deployment = Deployment(1, snapshot_records=1_000_000)
    async with deployment.lane(BASE) as lane:
        await lane.play(deployment.chance, 200, deployment.clock)
        await lane.settled()
        await lane.snapshots.close(20)
    deployment.delete_before(DECISIONS, deployment.records(DECISIONS)[50].offset)
    other, _ = OTHERS["a longer window"]
    with pytest.raises(HistoryGone):
        await deployment.restored(other, upto=deployment.ends())
    _, restored = await deployment.restored(other)  # one that is to serve goes on
    assert restored.refolded == ("rate_limit",)


async def test_a_snapshot_of_another_policy_is_followed_by_one_of_this() -> None:
    deployment = Deployment(4, snapshot_records=20)
    other, _ = OTHERS["a longer window"]
    async with deployment.lane(BASE) as lane:
        await lane.play(deployment.chance, 100, deployment.clock)
        await lane.settled()
        await lane.snapshots.close(20)
    async with deployment.lane(other) as lane:
        assert lane.restored.refolded == ("rate_limit",)
        await lane.snapshots.close(20)
    _, restored = await deployment.restored(other)
    assert (restored.refolded, restored.tail_records) == ((), 0)
