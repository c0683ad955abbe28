"""What our Faust app does otherwise than Faust's."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from aiokafka.errors import KafkaConnectionError
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


async def test_an_app_that_ends_with_an_error_is_given_up_and_the_error_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(_app: App, **_: object) -> None:
        message = "no broker answers"
        raise KafkaConnectionError(message)

    caplog.set_level("INFO", logger=stop_app.__module__)
    app = app_of()
    app.on_before_shutdown.connect(fails)
    assert not await stop_app(app)
    (line,) = [line for line in caplog.records if "did not stop cleanly" in line.message]
    assert line.message == "t-views did not stop cleanly: KafkaConnectionError('no broker answers')"
    assert (line.levelname, line.exc_info) == ("INFO", None)


async def test_an_app_that_ends_with_what_is_no_outage_is_told_as_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(_app: App, **_: object) -> None:
        message = "a table is broken"
        raise ValueError(message)

    app = app_of()
    app.on_before_shutdown.connect(fails)
    assert not await stop_app(app)
    (line,) = [line for line in caplog.records if "did not stop cleanly" in line.message]
    assert (line.levelname, line.exc_info is None) == ("ERROR", False)


async def test_an_app_that_heeds_no_cancel_is_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reached, end = asyncio.Event(), asyncio.Event()

    async def heeds_nothing(_app: App, **_: object) -> None:
        while not end.is_set():
            reached.set()
            with suppress(asyncio.CancelledError):
                await end.wait()

    caplog.set_level("INFO", logger=stop_app.__module__)
    app = app_of()
    app.on_before_shutdown.connect(heeds_nothing)
    try:
        assert not await asyncio.wait_for(stop_app(app, timeout_s=0.01), 5)
    finally:
        end.set()
    assert "t-views did not stop within 0 s: abandoned" in caplog.text
    assert reached.is_set()
