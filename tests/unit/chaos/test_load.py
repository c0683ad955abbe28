"""The policy of a load, and how it changes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from millstream.streams.policy_file import load_policy
from millstream.streams.settings import Settings
from tests.chaos.load import HOSTILE, Progress, plan_load, policy_for

LOAD = plan_load(40, random.Random(1))  # noqa: S311  only to be repeatable


@pytest.mark.parametrize("changes", range(5))
def test_each_policy_can_be_read_and_none_is_another_ones(changes: int, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(policy_for(LOAD, changes=changes), encoding="utf-8")
    load_policy(Settings(policy_file=path))
    others = {policy_for(LOAD, changes=other) for other in range(5) if other != changes}
    assert policy_for(LOAD, changes=changes) not in others


async def test_results_of_hostile_requests_are_no_progress() -> None:
    progress = Progress(2)
    await progress.add({"r1", f"{HOSTILE}name-0"})
    assert len(progress) == 1
