"""A hostile record has to be told of once, by a dead letter or by a result."""

from __future__ import annotations

from millstream.schemas.base import Address
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from tests.chaos.hostile.judge import outcomes, unaccounted
from tests.chaos.hostile.records import Sent
from tests.making.events import dead_letter, result

SENT = Sent("headers", "hostile-headers-0", "ns.requests", 1, 7)


def letter(offset: int, topic: str = "ns.requests") -> DeadLetter:
    return dead_letter(source=Address(topic=topic, partition=1, offset=offset))


def faults(letters: list[DeadLetter], results: list[AgentResult]) -> list[str]:
    return list(unaccounted(outcomes([SENT], letters, results)))


def test_one_dead_letter_of_its_address_or_one_result_is_right() -> None:
    assert faults([letter(7), letter(8), letter(7, "ns.control")], [result()]) == []
    assert faults([], [result(request_id=SENT.request_id)]) == []


def test_nothing_and_two_things_are_faults() -> None:
    assert faults([letter(8)], []) == [
        "headers at ns.requests-1@7: 0 dead letters and 0 results, not one of them"
    ]
    assert len(faults([letter(7), letter(7)], [])) == 1
    assert len(faults([letter(7)], [result(request_id=SENT.request_id)])) == 1
