"""What our Faust app does otherwise than Faust's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from faust.exceptions import ConsumerNotStarted
from faust.transport.consumer import Consumer

from millstream.schemas.errors import Misconfigured
from millstream.streams.consumer.faust_app import App, build_app, stop_app
from millstream.streams.settings import Settings


def app_of(**settings: object) -> App:
    return build_app(
        Settings.model_validate({"namespace": "t", **settings}),
        "views",
        loop=asyncio.get_running_loop(),
    )


async def test_an_idle_partition_is_not_looked_at_for_livelocks() -> None:
    consumer = app_of().consumer
    with pytest.raises(ConsumerNotStarted):  # Faust's own looks at each partition
        await Consumer.verify_all_partitions_active(consumer)
    await consumer.verify_all_partitions_active()


async def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    app = app_of(data_dir=tmp_path / "file" / "below")
    with pytest.raises(Misconfigured, match="MILLSTREAM_DATA_DIR"):
        await app.start()
    assert await stop_app(app)
