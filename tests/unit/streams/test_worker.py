"""A worker that was told to end ends well, whatever goes wrong meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog
from langchain_core.language_models import BaseChatModel

from millstream.schemas.errors import Misconfigured
from millstream.schemas.runs.errors import ModelUnavailable
from millstream.streams.settings import Settings
from millstream.streams.worker import WorkerInfo, _warm_up, run_worker


async def work(folder: Path, stop: asyncio.Event) -> list[WorkerInfo]:
    """Run a worker that cannot start; gives what it said when it was ready."""
    said: list[WorkerInfo] = []
    settings = Settings(policy_file=folder / "none.yaml", data_dir=folder)
    await run_worker(settings, frozenset({"lanes"}), ready=said.append, stop=stop)
    return said


async def test_what_keeps_a_worker_from_starting_is_raised(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"none\.yaml"):
        await work(tmp_path, asyncio.Event())


async def test_what_goes_wrong_in_a_worker_that_is_told_to_end_is_told_and_not_raised(
    tmp_path: Path,
) -> None:
    stop = asyncio.Event()
    stop.set()
    with structlog.testing.capture_logs() as lines:
        assert await work(tmp_path, stop) == []
    assert [line["event"] for line in lines] == ["worker did not stop cleanly"]


async def test_a_default_model_that_nobody_asked_for_may_be_missing() -> None:
    def missing(name: str) -> BaseChatModel:
        message = f"{name} is not installed"
        raise ModelUnavailable(message)

    with structlog.testing.capture_logs() as lines:
        await _warm_up(Settings(), missing)
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("default model unavailable", "local is not installed")
    ]
    words = "MILLSTREAM_DEFAULT_MODEL: local is not installed"
    with pytest.raises(Misconfigured, match=words):
        await _warm_up(Settings(default_model="local"), missing)
