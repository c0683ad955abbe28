from __future__ import annotations

import pytest

from tests.support import eventually


async def test_eventually_gives_the_first_true_value_of_a_plain_condition() -> None:
    values = iter([0, None, 7])
    assert await eventually(lambda: next(values)) == 7


async def test_eventually_awaits_a_condition_that_is_a_coroutine_function() -> None:
    values = iter([False, True])

    async def condition() -> bool:
        return next(values)

    assert await eventually(condition)


async def test_eventually_tells_the_last_value_when_it_gives_up() -> None:
    with pytest.raises(AssertionError, match=r"not true within 0\.05 s; the last value was: \[\]"):
        await eventually(list, timeout_s=0.05)


async def test_eventually_tells_the_last_assertion_when_it_gives_up() -> None:
    def condition() -> bool:
        message = "two of three"
        raise AssertionError(message)

    with pytest.raises(AssertionError, match="the last assertion was: two of three"):
        await eventually(condition, timeout_s=0.05)


async def test_eventually_lets_any_other_error_through_at_once() -> None:
    def condition() -> bool:
        raise LookupError

    with pytest.raises(LookupError):
        await eventually(condition)


async def test_eventually_lets_the_conditions_own_time_out_through() -> None:
    async def condition() -> bool:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await eventually(condition)
