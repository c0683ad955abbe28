from __future__ import annotations

from millstream.streams.broker.diagnosis.features import lacking


def test_a_broker_without_transactions_is_known_by_the_requests_that_it_lacks() -> None:
    whole = dict.fromkeys(range(30), (0, 5))
    assert lacking(whole) == ()
    without = {number: known for number, known in whole.items() if number not in {24, 26}}
    assert lacking(without) == ("AddPartitionsToTxn", "EndTxn")
