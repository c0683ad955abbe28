"""A flood is planned so that every partition has one who floods, and others beside it."""

from __future__ import annotations

import random
from collections import defaultdict

from millstream.streams.wire.partitioning import home_partition
from tests.chaos.floods import PARTITIONS, floods, plan_flood
from tests.chaos.model_server import NOTHING, expected_answer
from tests.harness.audit import Asked


def test_nine_in_ten_requests_are_floods_and_each_partition_has_both_kinds() -> None:
    load = plan_flood(600, random.Random(1))  # noqa: S311  only to be repeatable
    flood = [one for one in load if floods(one)]
    assert len({one.request_id for one in load}) == 600
    assert len(flood) == 540
    for kind in (flood, [one for one in load if not floods(one)]):
        homes = {home_partition(one.user_id, PARTITIONS) for one in kind}
        assert homes == set(range(PARTITIONS))


def test_each_request_of_a_flood_follows_the_one_before_it_in_its_session() -> None:
    sessions: dict[str, list[Asked]] = defaultdict(list)
    for one in plan_flood(600, random.Random(1)):  # noqa: S311  only to be repeatable
        sessions[one.session].append(one)
    for asked in sessions.values():
        before = NOTHING
        for one in asked:
            assert one.answer == expected_answer(one.request_id, before)
            before = one.request_id
