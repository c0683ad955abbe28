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


def test_what_live_workers_have_is_there_and_their_app_is_not_guessed_at() -> None:
    globs = {"templates": ("chat_*", "support", "vap"), "permissions": ("a:*",), "models": ("b",)}
    policy = Policy.model_validate({"roles": {"clerk": globs}})
    idle = (
        "roles.clerk.templates: 'vap'",
        "roles.clerk.permissions: 'a:*'",
        "roles.clerk.models: 'b'",
    )
    assert idle_globs(policy, THERE) == ("roles.clerk.templates: 'support'", *idle)
    assert idle_globs(policy, THERE.beside({"orders", "support"})) == idle[:1]
    assert THERE.beside({"orders"}) == THERE
