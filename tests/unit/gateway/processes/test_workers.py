"""How patiently a worker that dies is started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.gateway.processes.children import ChildEnded
from millstream.gateway.processes.workers import RestartPolicy, end_in_a_sentence


def test_the_wait_doubles_up_to_its_bound() -> None:
    policy = RestartPolicy(first_s=0.5, max_s=3.0)
    assert [policy.wait_s(failures) for failures in (1, 2, 3, 4, 1000)] == [0.5, 1, 2, 3, 3]


def test_a_worker_that_ended_is_told_of_in_a_sentence_with_where_its_log_is() -> None:
    ended = ChildEnded("the worker ended with exit code 7", 7, "The end of its log:\n    lines")
    assert "lines" in str(ended)  # which is what `up` itself ends with
    assert end_in_a_sentence(ended, Path("/data/worker.log")) == (
        "the worker ended with exit code 7; its log says why: /data/worker.log, or "
        "/data/worker.log.1 once the next one runs"
    )
    assert end_in_a_sentence(ended, None) == (
        "the worker ended with exit code 7, and said why above"
    )


@pytest.mark.parametrize("log", [None, Path("/data/worker.log")])
def test_a_worker_that_was_killed_is_not_said_to_have_told_why(log: Path | None) -> None:
    ended = ChildEnded("the worker was killed by SIGKILL", -9, "The end of its log:\n    lines")
    assert end_in_a_sentence(ended, log) == (
        "the worker was killed by SIGKILL: by somebody, or by the system, where memory is short"
    )
