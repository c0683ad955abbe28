"""When a run is tried again."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from millstream.agents.templates.retry import RetryPolicy
from millstream.schemas.lane_events import ATTEMPTS_PER_GENERATION


def test_waits_grow_to_their_bound_and_end_with_the_attempts() -> None:
    policy = RetryPolicy(attempts_max=5, backoff_first_s=1, backoff_factor=3, backoff_max_s=10)
    assert [policy.delay_s(n, chance=0) for n in range(1, 6)] == [1, 3, 9, 10, None]


def test_jitter_takes_off_at_most_its_part() -> None:
    policy = RetryPolicy(backoff_first_s=2, jitter=0.25)
    assert (policy.delay_s(1, chance=0), policy.delay_s(1, chance=1)) == (2, 1.5)


def test_one_attempt_is_not_tried_again() -> None:
    assert RetryPolicy(attempts_max=1).delay_s(1, chance=0) is None


def test_no_policy_allows_more_attempts_than_one_owner_has_numbers_for() -> None:
    with pytest.raises(ValidationError):
        RetryPolicy(attempts_max=ATTEMPTS_PER_GENERATION + 1)


@pytest.mark.parametrize("wrong", [{"attempts_max": 0}, {"jitter": 2}, {"backoff_factor": 0.5}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        RetryPolicy.model_validate(wrong)


def test_a_provider_is_not_asked_before_it_wants_to_be() -> None:
    policy = RetryPolicy(backoff_first_s=1.0, jitter=0.5, retry_after_max_s=60)
    assert policy.delay_s(1, chance=1.0, retry_after_s=7.0) == 7.0
    assert policy.delay_s(1, chance=0.0, retry_after_s=0.5) == 1.0
    assert policy.delay_s(1, chance=0.0, retry_after_s=61.0) is None
    assert policy.delay_s(policy.attempts_max, chance=0.0, retry_after_s=7.0) is None
