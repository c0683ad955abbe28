"""The sliding window: exact at its edges, by the broker's time, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.middleware.pipeline import MiddlewarePipeline
from millstream.middleware.policy import Policy
from millstream.middleware.rate_limit import LATE_MS_MAX, RateLimitMiddleware
from millstream.schemas.errors import RateLimited
from millstream.schemas.events import Decision
from tests.making import NOON_MS, context, resolved

pytestmark = pytest.mark.rule(12)


def layer(requests: int = 3, window_s: int = 10) -> RateLimitMiddleware:
    text = f"defaults: {{rate: {{requests: {requests}, window_s: {window_s}}}}}"
    return RateLimitMiddleware(Policy.from_yaml(text, "p"))


def decide(limit: RateLimitMiddleware, after_ms: int, user_id: str = "ada") -> Decision:
    asked = resolved(user_id=user_id, at_ms=NOON_MS + after_ms)
    return MiddlewarePipeline([limit]).decide(context(asked), generation=1)


def test_one_more_than_the_limit_is_refused_until_the_oldest_leaves() -> None:
    limit = layer(requests=3, window_s=10)
    assert [decide(limit, at).admitted for at in (0, 1, 2, 9_999)] == [True, True, True, False]
    assert [decide(limit, at).admitted for at in (10_000, 10_000, 10_001)] == [True, False, True]


def test_retry_after_is_the_very_moment_at_which_it_fits() -> None:
    limit = layer(requests=1, window_s=10)
    decide(limit, 0)
    refused = limit.admit(context(resolved(at_ms=NOON_MS + 3_250))).rejection
    assert isinstance(refused, RateLimited)
    assert refused.retry_after_s == 6.75
    assert "user 'ada' may make 1 requests in 10 s; the next one fits in 6.750 s" in str(refused)
    assert not decide(limit, 9_999).admitted
    assert decide(limit, 10_000).admitted


def test_the_decision_carries_the_seconds() -> None:
    limit = layer(requests=1)
    decide(limit, 0)
    reason = decide(limit, 1_000).reason
    assert reason is not None
    assert (reason.code, reason.retry_after_s) == ("rate_limited", 9.0)


def test_refused_requests_do_not_count() -> None:
    limit = layer(requests=1, window_s=10)
    decide(limit, 0)
    for at in range(1, 10_000, 500):
        assert not decide(limit, at).admitted
    assert decide(limit, 10_000).admitted


def test_a_clock_set_back_opens_no_window() -> None:
    limit = layer(requests=2, window_s=10)
    decide(limit, 20_000)
    decide(limit, 5_000)
    refused = decide(limit, 5_001)
    assert not refused.admitted
    assert refused.reason is not None
    assert refused.reason.retry_after_s == (30_000 - 5_001) / 1000


def test_users_do_not_share_a_window() -> None:
    limit = layer(requests=1)
    assert decide(limit, 0, "ada").admitted
    assert decide(limit, 0, "bob").admitted


def test_a_user_without_a_limit_is_not_remembered() -> None:
    limit = RateLimitMiddleware(Policy())
    for number in range(10):
        assert decide(limit, 0, f"user-{number}").admitted
    assert limit.users_known == 0
    assert limit.history_ms == 0


def test_idle_users_are_forgotten_and_memory_of_a_user_is_its_limit() -> None:
    limit = layer(requests=2, window_s=10)
    step_ms = 100
    for number in range(20_000):
        decide(limit, number * step_ms, f"user-{number}")
    assert limit.users_known <= (LATE_MS_MAX + 10_000) / step_ms + 3
    busy = layer(requests=2, window_s=1)
    for number in range(100):
        decide(busy, number * 1_000)
    assert [len(times) for times in busy._admitted.values()] == [2]


def test_a_very_late_user_who_was_forgotten_has_a_window_again() -> None:
    limit = layer(requests=1, window_s=10)
    decide(limit, 0, "late")
    for number in range(3):
        decide(limit, LATE_MS_MAX + 20_000 + number, f"user-{number}")
    assert ("default", "late") not in limit._admitted
    assert decide(limit, 1, "late").admitted
    assert not decide(limit, 2, "late").admitted


class Unforgetting(RateLimitMiddleware):
    """Remembers every user for ever."""

    def _forget_idle(self) -> None:
        pass


@given(
    asks=st.lists(
        st.tuples(
            st.sampled_from(("ada", "bob", "cyd")),
            st.sampled_from((0, 500, 9_000, 10_000, LATE_MS_MAX, LATE_MS_MAX + 10_000)),
            st.sampled_from((0, 0, 0, 9_999, 10_000, LATE_MS_MAX, 2 * LATE_MS_MAX)),
        ),
        max_size=40,
    )
)
def test_forgetting_idle_users_changes_no_decision(asks: list[tuple[str, int, int]]) -> None:
    forgetting = layer(requests=1, window_s=10)
    unforgetting = Unforgetting(forgetting._policy)
    now_ms = 0
    for user_id, step_ms, late_ms in asks:
        now_ms += step_ms
        at_ms = now_ms - late_ms
        assert decide(forgetting, at_ms, user_id) == decide(unforgetting, at_ms, user_id)


@given(
    steps_ms=st.lists(st.integers(0, 4_000), max_size=60),
    requests=st.integers(1, 5),
    window_s=st.integers(1, 8),
)
def test_it_decides_as_the_definition_says(
    steps_ms: list[int], requests: int, window_s: int
) -> None:
    limit = layer(requests, window_s)
    admitted: list[int] = []
    now_ms = 0
    for step_ms in steps_ms:
        now_ms += step_ms
        in_window = [at for at in admitted if at > now_ms - window_s * 1000]
        decision = decide(limit, now_ms)
        assert decision.admitted == (len(in_window) < requests)
        if decision.admitted:
            admitted.append(now_ms)
        else:
            assert decision.reason is not None
            expected_ms = in_window[0] + window_s * 1000 - now_ms
            assert decision.reason.retry_after_s == expected_ms / 1000


def test_what_is_out_of_every_window_makes_no_difference_between_states() -> None:
    since_ms = LATE_MS_MAX + 30_000
    knows_more, knows_less = layer(), layer()
    for after_ms, user_id in ((0, "idle"), (1, "ada")):
        decide(knows_more, after_ms, user_id)
    for limit in (knows_more, knows_less):
        for user_id in ("ada", "bob"):
            decide(limit, since_ms, user_id)
    assert knows_more.state() != knows_less.state()
    assert knows_more.canonical() == knows_less.canonical()
    decide(knows_less, since_ms, "bob")
    assert knows_more.canonical() != knows_less.canonical()


def test_users_are_compared_in_no_order() -> None:
    one, other = layer(), layer()
    for limit, users in ((one, ("ada", "bob")), (other, ("bob", "ada"))):
        for user_id in users:
            decide(limit, 0, user_id)
    assert one.state() != other.state()
    assert one.canonical() == other.canonical()
