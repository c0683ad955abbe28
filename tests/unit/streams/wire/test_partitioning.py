"""The home partition is the one that Kafka's own default partitioner gives the user's key."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from millstream.streams.wire.partitioning import home_partition, name_at

pytestmark = pytest.mark.rule(11)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=64), st.integers(1, 64))
def test_it_is_where_a_default_producer_puts_a_record_of_that_key(key: str, count: int) -> None:
    everywhere = list(range(count))
    assert home_partition(key, count) == DefaultPartitioner()(key.encode(), everywhere, everywhere)


@pytest.mark.parametrize(
    ("key", "murmur2"),
    # Of Kafka's own UtilsTest, so that a change of both sides here would still be seen.
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_it_hashes_as_the_java_client_does(key: str, murmur2: int) -> None:
    for count in (1, 4, 7, 1024):
        assert home_partition(key, count) == (murmur2 & 0x7FFFFFFF) % count


@pytest.mark.parametrize("partitions", [1, 4, 64])
def test_every_partition_has_a_name_that_is_at_home_there(partitions: int) -> None:
    for partition in range(partitions):
        assert home_partition(name_at(partition, partitions), partitions) == partition
