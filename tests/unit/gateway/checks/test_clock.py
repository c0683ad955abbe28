"""What `doctor` finds of clocks."""

from __future__ import annotations

import pytest

from millstream.gateway.checks.clock import clocks_found
from millstream.streams.broker.diagnosis.clocks import BrokerClock


@pytest.mark.parametrize(
    ("least_s", "most_s", "level"),
    [
        (-0.01, 0.02, "ok"),
        (-4.0, 4.0, "ok"),  # a broker that answers slowly says nothing of its clock
        (1.01, 1.1, "note"),
        (-1.1, -1.01, "note"),
        (0.9, 30.0, "ok"),
        (10.1, 10.2, "wrong"),
        (-9e4, -8e4, "wrong"),
    ],
)
def test_only_what_is_certain_counts(least_s: float, most_s: float, level: str) -> None:
    (found,) = clocks_found((BrokerClock(1, least_s, most_s),))
    assert found.level == level
    assert bool(found.remedy) == (level != "ok")


def test_each_broker_that_is_off_is_named_and_the_way_it_is_off() -> None:
    ahead, behind = clocks_found(
        (BrokerClock(1, 2.0, 2.1), BrokerClock(2, -0.1, 0.1), BrokerClock(3, -99.0, -98.5))
    )
    assert "this machine is 2.0 s behind broker 1" in ahead.told
    assert "this machine is 98.5 s ahead of broker 3" in behind.told
    assert (ahead.level, behind.level) == ("note", "wrong")


def test_brokers_that_are_all_off_in_one_way_are_one_finding() -> None:
    (found,) = clocks_found((BrokerClock(1, 2.0, 2.1), BrokerClock(2, 30.0, 30.1)))
    assert found.level == "wrong"
    assert "this machine is 30.0 s behind brokers 1, 2: " in found.told


def test_a_topic_that_brokers_do_not_stamp_is_not_told_as_well() -> None:
    (found,) = clocks_found(())
    assert found.level == "note"
    assert found.told.startswith("not known")


def test_two_looks_are_narrower_than_each_and_a_clock_that_jumps_between_them_fails_nothing() -> (
    None
):
    slow, quick = BrokerClock(1, -3.0, 1.0), BrokerClock(1, -0.5, 2.0)
    assert slow.met(quick) == BrokerClock(1, -0.5, 1.0)
    jumped = BrokerClock(1, 50.0, 50.1)
    assert quick.met(jumped) == jumped
