"""How the session view compares with the topics that it is made of, for whoever asks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from aiokafka import TopicPartition

from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.sessions.in_redis.marks import Stand, told_of
from millstream.streams.sessions.redis import RedisSessionStore

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

__all__ = ["ViewCompared", "compare_session_view"]

_NAME: Final = re.compile(r"([a-z-]+)/([0-9]{1,6})")


class ViewCompared(NamedTuple):
    """Up to where the view has each partition by its name, as it says, and where those end."""

    stands: Mapping[str, Stand]
    ends: Mapping[str, int]

    def beyond(self) -> list[str]:
        """Give the partitions of which the view has more than there is: it is of another log."""
        return sorted(name for name, stand in self.stands.items() if stand.offset > self.ends[name])

    def lacks(self) -> str | None:
        """Say why sessions may lack; `None`: none do."""
        return told_of(self.stands)


async def compare_session_view(settings: Settings) -> ViewCompared:
    """Ask the view up to where it has its topics, and where these end.

    Raises `ServiceUnavailable` where Redis or Kafka do not answer.
    """
    store, reader = RedisSessionStore(settings), PartitionReader(settings)
    try:
        stands: dict[str, Stand] = {}
        places: dict[str, TopicPartition] = {}
        for name, stand in (await store.marks.read()).items():
            if (named := _NAME.fullmatch(name)) is not None:
                stands[name] = stand
                places[name] = TopicPartition(settings.topic(named[1]), int(named[2]))
        await reader.start()
        ends = await reader.high_watermarks(places.values())
        return ViewCompared(stands, {name: ends[place] for name, place in places.items()})
    finally:
        await reader.stop()
        await store.close()
