from __future__ import annotations

from millstream.schemas.base import NO_USAGE, Usage
from millstream.schemas.journal.steps import JournalledUsage, bounded


def test_what_very_many_calls_used_is_summed_up_and_nothing_of_it_lost() -> None:
    used = [
        JournalledUsage(usage=Usage(input_tokens=1 + number), model=f"m{number % 100}")
        for number in range(1_000)
    ]
    told = bounded(used)
    assert told[:64] == tuple(used[:64])
    assert len(told) <= 2 * 64 + 1
    assert sum((one.usage for one in told), NO_USAGE).input_tokens == sum(range(1, 1_001))
    assert sum(one.calls for one in told) == 1_000
    assert bounded(told[:64]) == told[:64]
