from __future__ import annotations

from millstream.schemas.base import NO_USAGE, CallUsage, Usage
from millstream.schemas.runs.call_usage import bounded


def test_what_very_many_calls_used_is_summed_up_and_nothing_of_it_lost() -> None:
    used = [
        CallUsage(Usage(input_tokens=1 + number), f"m{number % 100}") for number in range(1_000)
    ]
    told = bounded(used)
    assert told[:64] == tuple(used[:64])
    assert len(told) <= 2 * 64 + 1
    assert sum((one.usage for one in told), NO_USAGE).input_tokens == sum(range(1, 1_001))
    assert sum(one.calls for one in told) == 1_000
    assert bounded(told[:64]) == told[:64]


def test_a_sum_with_an_estimate_in_it_is_an_estimate() -> None:
    reported, guessed = CallUsage(Usage(output_tokens=1)), CallUsage(Usage(), None, "broke off")
    *_, rest = bounded([reported] * 65 + [guessed])
    assert (rest.calls, rest.usage, rest.estimate_reason) == (2, reported.usage, "broke off")
