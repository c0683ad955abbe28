from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from millstream.streams.consumer.faust_app import build_app
from millstream.streams.settings import Settings
from millstream.streams.views.aggregates import Aggregate
from millstream.streams.views.table import ViewTable, others_key, total_key, user_key, users_prefix


@dataclass(frozen=True, slots=True)
class Change:
    """A changelog record as Faust hands it over: an event, and the message that it came in."""

    key: bytes
    value: bytes
    partition: int = 0

    @property
    def message(self) -> Change:
        """The message: of bytes too, as nothing is deserialised."""
        return self


def changes(key: bytes, offsets: Iterable[int]) -> list[Change]:
    """Give values of a key that stand at these offsets, in this order."""
    return [Change(key, Aggregate(offset=offset).to_bytes()) for offset in offsets]


@pytest.fixture
async def table() -> ViewTable:
    app = build_app(Settings(namespace="t"), "views", loop=asyncio.get_running_loop())
    return ViewTable.declare(app, "results", partitions=4)


def offset_of(table: ViewTable, key: bytes) -> int:
    kept = table.read(key)
    assert kept is not None
    return kept.offset


@pytest.mark.parametrize("partition", [0, 7, 1023])
def test_a_key_names_its_partition(table: ViewTable, partition: int) -> None:
    keys = (total_key(partition), user_key(partition, "t", "ada"), others_key(partition))
    assert {table.partition_for_key(key) for key in keys} == {partition}


def test_no_two_names_share_a_key() -> None:
    names = [("a", "b"), ("a/b", ""), ("", "a/b"), ("a|b", "c"), ("a%2Fb", "c"), ("a/b", "c")]
    keys = {user_key(1, tenant, user) for tenant, user in names}
    assert len(keys) == len(names)
    assert others_key(1) not in keys
    assert total_key(1) not in keys


def test_users_of_partition_1_are_not_those_of_partition_11() -> None:
    assert not user_key(11, "t", "ada").startswith(users_prefix(1))
    assert not total_key(1).startswith(users_prefix(1))


def test_an_older_value_behind_a_newer_one_is_passed_over_in_one_batch(table: ViewTable) -> None:
    table.apply_changelog_batch(changes(total_key(0), (3, 9, 5)))
    assert offset_of(table, total_key(0)) == 9


def test_an_older_value_behind_a_newer_one_is_passed_over_in_a_later_batch(
    table: ViewTable,
) -> None:
    table.apply_changelog_batch(changes(total_key(0), (9,)))
    table.apply_changelog_batch(changes(total_key(0), (5,)))
    assert offset_of(table, total_key(0)) == 9


def test_keys_are_restored_independently(table: ViewTable) -> None:
    table.apply_changelog_batch(
        changes(total_key(0), (9,)) + changes(user_key(0, "t", "ada"), (2,))
    )
    assert offset_of(table, user_key(0, "t", "ada")) == 2
    assert table.read(total_key(1)) is None


def test_value_of_a_log_that_was_made_anew_is_newer_than_any_of_the_log_before(
    table: ViewTable,
) -> None:
    anew = Change(total_key(0), Aggregate(offset=1, log=1).to_bytes())
    table.apply_changelog_batch([*changes(total_key(0), (9,)), anew])
    table.apply_changelog_batch(changes(total_key(0), (10,)))
    assert offset_of(table, total_key(0)) == 1
