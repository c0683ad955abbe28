"""Which partition is whose: murmur2 over the user's key, as Kafka's own default partitioner does.

librdkafka's default differs (CRC32), so records of its clients arrive anywhere and are put right.
Source: org.apache.kafka.clients.producer.internals.BuiltInPartitioner.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import count

from aiokafka.partitioner import murmur2

_SIGN_MASK = 0x7FFFFFFF
_KEYS_CACHED_MAX = 65_536


@lru_cache(maxsize=_KEYS_CACHED_MAX)
def home_partition(partition_key: str, partitions: int) -> int:
    """Give the partition, of `partitions`, that everything of this user stands at."""
    return (int(murmur2(partition_key.encode())) & _SIGN_MASK) % partitions


def name_at(partition: int, partitions: int) -> str:
    """Give a name whose home is this partition, for what concerns a lane and no user."""
    return next(
        name
        for number in count()
        if home_partition(name := f"millstream-{number}", partitions) == partition
    )
