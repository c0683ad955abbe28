from __future__ import annotations

from pathlib import Path

from millstream.gateway.checks.policies import policies_found
from millstream.middleware.policy import Policy
from millstream.streams.consumer.members import LaneMember

FILE = Path("policy.yaml")


def member(worker: str, digest: str | None) -> LaneMember:
    return LaneMember(worker, None, policy_digest=digest)


def test_workers_whose_policies_differ_are_named_with_what_each_has() -> None:
    members = (member("w1", "aa"), member("w2", "bb"), member("w3", "aa"))
    (found,) = policies_found(members, (FILE, "bb"))
    assert found.level == "wrong"
    assert "aa: w1, w3; bb, policy.yaml: w2" in found.told


def test_a_file_that_no_worker_has_is_told() -> None:
    (found,) = policies_found((member("w1", "aa"), member("w2", "aa")), (FILE, "bb"))
    assert found.level == "note"
    assert found.told == "no worker has policy.yaml as it is now (bb): they have aa"
    assert "restart" in found.remedy
    (none,) = policies_found((member("w1", Policy().digest),), (FILE, "bb"))
    assert none.told.endswith("which is none")


def test_workers_that_all_have_the_policy_are_as_they_should_be() -> None:
    (found,) = policies_found((member("w1", "aa"), member("w2", "aa")), (FILE, "aa"))
    assert (found.level, found.told) == ("ok", "2 workers have aa, policy.yaml")
    (unnamed,) = policies_found((member("w1", "aa"),), None)
    assert unnamed.level == "ok"


def test_workers_of_versions_that_do_not_say_are_passed_over() -> None:
    assert policies_found((member("w1", None),), (FILE, "bb")) == ()
    (found,) = policies_found((member("w1", None), member("w2", "bb")), (FILE, "bb"))
    assert found.level == "ok"
