"""How patiently a worker that dies is started again."""

from __future__ import annotations

from millstream.gateway.processes.workers import RestartPolicy


def test_the_wait_doubles_up_to_its_bound() -> None:
    policy = RestartPolicy(first_s=0.5, max_s=3.0)
    assert [policy.wait_s(failures) for failures in (1, 2, 3, 4, 1000)] == [0.5, 1, 2, 3, 3]
