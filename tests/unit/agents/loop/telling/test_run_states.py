"""The states of a run: only what the table says may follow."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from millstream.agents.loop.telling.run_states import (
    ENDED,
    TRANSITIONS,
    IllegalTransition,
    RunState,
    check,
    state_after,
)
from millstream.schemas.events import ResultStatus

STATES: tuple[RunState, ...] = get_args(RunState)


@pytest.mark.parametrize(("before", "after"), tuple(product(STATES, STATES)))
def test_only_what_stands_in_the_table_may_follow(before: RunState, after: RunState) -> None:
    if after in TRANSITIONS[before]:
        check(before, after)
    else:
        with pytest.raises(IllegalTransition, match=f"{before} cannot become {after}"):
            check(before, after)


@pytest.mark.parametrize("status", get_args(ResultStatus))
def test_a_run_that_has_ended_goes_nowhere(status: ResultStatus) -> None:
    assert state_after(status) in ENDED
    assert TRANSITIONS[state_after(status)] == frozenset()
