"""A model that fails again and again is passed over, and tried again by one run at a time."""

from __future__ import annotations

from millstream.agents.circuits import FAILURES_MAX, MODELS_MAX, OPEN_S, ModelCircuits

MODELS = ("openai:first", "openai:second")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0


def circuits() -> tuple[ModelCircuits, Clock, list[tuple[str, bool]]]:
    clock = Clock()
    told: list[tuple[str, bool]] = []
    made = ModelCircuits(
        now_s=lambda: clock.now_s, on_change=lambda model, is_open: told.append((model, is_open))
    )
    return made, clock, told


def fail(made: ModelCircuits, model: str, times: int = FAILURES_MAX) -> None:
    for _ in range(times):
        made.failed(model, for_good=False, reason="overloaded")


def test_a_model_is_passed_over_after_so_many_failures_in_a_row() -> None:
    made, _, told = circuits()
    fail(made, MODELS[0], FAILURES_MAX - 1)
    assert made.first_of(MODELS) == MODELS[0]
    made.answered(MODELS[0])
    fail(made, MODELS[0], FAILURES_MAX - 1)
    assert made.first_of(MODELS) == MODELS[0]
    fail(made, MODELS[0], 1)
    assert made.first_of(MODELS) == MODELS[1]
    assert told == [(MODELS[0], True)]
    assert made.open() == (MODELS[0],)


def test_a_model_whose_key_is_refused_is_passed_over_at_once() -> None:
    made, _, _ = circuits()
    made.failed(MODELS[0], for_good=True, reason="model_unavailable")
    assert made.first_of(MODELS) == MODELS[1]


def test_runs_that_fail_late_do_not_put_the_next_trial_off() -> None:
    # agbero's issue 7: each failure began the wait anew, and no trial came.
    made, clock, told = circuits()
    fail(made, MODELS[0])
    for _ in range(3):
        clock.now_s += OPEN_S / 3
        fail(made, MODELS[0], 1)
    assert [made.first_of(MODELS) for _ in range(2)] == [MODELS[0], MODELS[1]]
    made.answered(MODELS[0])
    assert told == [(MODELS[0], True), (MODELS[0], False)]


def test_a_trial_that_did_not_call_the_model_is_the_next_runs() -> None:
    # A run with an image, of a model that takes none: it would put the trial off each time.
    made, clock, _ = circuits()
    fail(made, MODELS[0])
    made.not_called(MODELS[0])
    assert made.first_of(MODELS) == MODELS[1]
    clock.now_s += OPEN_S
    assert made.first_of(MODELS) == MODELS[0]
    made.not_called(MODELS[0])
    assert [made.first_of(MODELS) for _ in range(2)] == [MODELS[0], MODELS[1]]


def test_one_run_at_a_time_tries_it_again() -> None:
    made, clock, told = circuits()
    fail(made, MODELS[0])
    clock.now_s += OPEN_S
    assert [made.first_of(MODELS) for _ in range(3)] == [MODELS[0], MODELS[1], MODELS[1]]
    fail(made, MODELS[0], 1)
    clock.now_s += OPEN_S - 1
    assert made.first_of(MODELS) == MODELS[1]
    clock.now_s += 1
    assert made.first_of(MODELS) == MODELS[0]
    made.answered(MODELS[0])
    assert [made.first_of(MODELS) for _ in range(3)] == [MODELS[0]] * 3
    assert told == [(MODELS[0], True), (MODELS[0], False)]


def test_where_all_are_out_the_first_is_asked() -> None:
    made, _, _ = circuits()
    fail(made, MODELS[0])
    fail(made, MODELS[1])
    assert made.first_of(MODELS) == MODELS[0]


def test_it_knows_of_a_bounded_number_of_models() -> None:
    made, _, told = circuits()
    for number in range(MODELS_MAX + 10):
        made.failed(f"m{number}", for_good=True, reason="x")
    assert len(tuple(made.open())) == MODELS_MAX
    # What is forgotten is not told to be open for ever.
    assert [one for one in told if not one[1]] == [(f"m{number}", False) for number in range(10)]
