"""A Faust table of aggregates: each key names its partition, each value the offset it stands at.

Faust's traps here, and what is done about each:

- A write lands in the changelog partition of the *current event*, wrong for a batch over several
  partitions and impossible outside a stream. Here the key says its partition.
- A changelog record that cannot be sent is only logged. Here it fails the app: its state would be
  ahead of what a restart finds.
- An owner that was paused past its session may still write one old value after its successor's
  newer one. Here recovery keeps, of each key, the value with the highest offset of the last log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import faust
import orjson

from millstream.streams.consumer.faust_app import App
from millstream.streams.views.aggregates import OTHER, Aggregate

__all__ = ["ViewTable", "total_key", "user_key", "users_prefix"]


class ViewTable(faust.Table):  # type: ignore[misc]
    """Aggregates as bytes, by keys from `total_key` and `user_key`; written from anywhere."""

    @classmethod
    def declare(cls, app: App, name: str, *, partitions: int) -> ViewTable:
        """Add a table to an app that is not started; its changelog is compacted."""
        table = cls(app, name=name, partitions=partitions, key_type=bytes, value_type=bytes)
        app.tables.add(table)
        return table

    def read(self, key: bytes) -> Aggregate | None:
        """Give what is kept under a key."""
        value = self.get(key)
        return Aggregate.from_bytes(value) if value is not None else None

    def partition_for_key(self, key: bytes) -> int:
        """Give the partition that the key names."""
        return int(key.partition(b"|")[0])

    def send_changelog(self, *args: Any, **kwargs: Any) -> Any:
        """Send a change; one that does not arrive fails the app."""
        sent = super().send_changelog(*args, **kwargs)
        sent.add_done_callback(partial(_fail_unless_sent, self.app))
        return sent

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Restore from changelog records, what stands furthest of each key last."""
        super().apply_changelog_batch(self._rising(batch))

    def _rising(self, batch: Iterable[Any]) -> Iterator[Any]:
        places: dict[bytes, tuple[int, int]] = {}
        for event in batch:
            kept = places.get(event.key)
            if kept is None:
                kept = _place(self.data.get(event.key))
            places[event.key] = max(kept, place := _place(event.value))
            if place >= kept:
                yield event


def total_key(partition: int) -> bytes:
    """Give the key of a partition's aggregate over everybody."""
    return b"%d|total" % partition


def users_prefix(partition: int) -> bytes:
    """Give what the keys of a partition's users begin with."""
    return b"%d|user|" % partition


def user_key(partition: int, tenant: str, user_id: str) -> bytes:
    """Give the key of a user's aggregate; a percent-encoded name forges no other key."""
    return users_prefix(partition) + f"{quote(tenant, safe='')}/{quote(user_id, safe='')}".encode()


def others_key(partition: int) -> bytes:
    """Give the key under which users beyond the bound are counted together."""
    return users_prefix(partition) + OTHER.encode()


def _place(value: bytes | None) -> tuple[int, int]:
    if value is None:
        return -1, -1
    read = orjson.loads(value)
    return int(read.get("log", 0)), int(read["offset"])


def _fail_unless_sent(app: App, sent: Any) -> None:
    if not sent.cancelled() and (error := sent.exception()) is not None:
        app.fail(error)
