"""Globs of a policy that match nothing."""

from __future__ import annotations

import pytest

from millstream.gateway.policy_globs import Matched, idle_globs
from millstream.middleware.policy import Policy

THERE = Matched(
    templates=("chat_agent", "orders"),
    permissions=("orders:read",),
    providers=("openai", "local", "house"),
)


@pytest.mark.parametrize(
    ("field", "glob", "is_idle"),
    [
        ("templates", "chat_*", False),
        ("templates", "Chat_*", True),
        ("templates", "*", False),
        ("permissions", "orders:*", False),
        ("permissions", "order:*", True),
        ("permissions", "*", False),
        ("models", "*", False),
        ("models", "openai:*", False),
        ("models", "open*", False),
        ("models", "openai:gpt-[45]*", False),
        ("models", "house", False),
        ("models", "hause:*", True),
    ],
)
def test_a_glob_that_matches_nothing_is_found(
    field: str,
    glob: str,
    is_idle: bool,  # noqa: FBT001  a case's
) -> None:
    policy = Policy.model_validate({"roles": {"clerk": {field: (glob,)}}})
    found = (f"roles.clerk.{field}: {glob!r}",) if is_idle else ()
    assert idle_globs(policy, THERE) == found
