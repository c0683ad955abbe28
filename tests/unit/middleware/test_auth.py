"""Who may use which template."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.middleware.auth import AuthMiddleware
from millstream.middleware.policy import Policy
from millstream.schemas.errors import Forbidden
from tests.making import context, resolved

POLICY = Policy.from_yaml(
    """
    roles: {reader: {templates: [chat_agent]}, ops: {templates: ["ops_*"]}}
    users: {ada: {roles: [reader]}, acme/bob: {roles: [reader, ops]}}
    """,
    "policy.yaml",
)


def test_a_user_whose_role_matches_the_template_passes() -> None:
    auth = AuthMiddleware(POLICY)
    assert auth.admit(context(resolved(user_id="ada"))).rejection is None
    asked = resolved(tenant="acme", user_id="bob", template="ops_restart")
    assert auth.admit(context(asked)).rejection is None


@pytest.mark.parametrize(
    ("tenant", "user_id", "template"),
    [
        ("default", "ada", "ops_restart"),
        ("default", "ada", "CHAT_AGENT"),
        ("default", "ada", "chat_agent\u200b"),
        ("default", "Ada", "chat_agent"),
        ("acme", "ada", "chat_agent"),
        ("default", "acme/bob", "chat_agent"),
        ("default", "stranger", "chat_agent"),
    ],
)
def test_everything_else_is_forbidden(tenant: str, user_id: str, template: str) -> None:
    asked = resolved(tenant=tenant, user_id=user_id, template=template)
    assert isinstance(AuthMiddleware(POLICY).admit(context(asked)).rejection, Forbidden)


GRANTS = Policy.from_yaml(
    """
    roles:
      reader: {templates: [orders]}
      clerk: {permissions: ["orders:*"]}
      auditor: {templates: ["*"], permissions: ["orders:read"]}
    users:
      ada: {roles: [reader]}
      bob: {roles: [reader, clerk]}
      eve: {roles: [auditor]}
      cat: {roles: [clerk]}
    """,
    "policy.yaml",
)


@pytest.mark.parametrize(
    ("user_id", "asks", "lacks"),
    [
        ("ada", (), None),
        ("ada", ("orders:read",), "'orders:read'"),
        ("bob", ("orders:read", "orders:refund"), None),
        ("bob", ("orders:read", "mail:send"), "'mail:send'"),
        ("eve", ("orders:read",), None),
        ("eve", ("orders:read", "orders:refund", "mail:send"), "'orders:refund', 'mail:send'"),
        ("eve", ("ORDERS:READ",), "'ORDERS:READ'"),
    ],
)
def test_what_a_template_asks_for_must_be_granted_by_some_role(
    user_id: str, asks: tuple[str, ...], lacks: str | None
) -> None:
    asked = replace(context(resolved(user_id=user_id, template="orders")), permissions=asks)
    rejection = AuthMiddleware(GRANTS).admit(asked).rejection
    if lacks is None:
        assert rejection is None
    else:
        assert isinstance(rejection, Forbidden)
        assert f"lacks what template 'orders' asks for: {lacks}; " in str(rejection)


def test_a_permission_permits_no_template() -> None:
    asked = context(resolved(user_id="cat", template="orders"))
    rejection = AuthMiddleware(GRANTS).admit(asked).rejection
    assert "may not use template 'orders'" in str(rejection)


def test_without_roles_in_the_policy_every_permission_is_granted() -> None:
    asked = replace(context(resolved()), permissions=("orders:read",))
    assert AuthMiddleware(Policy()).admit(asked).rejection is None


def test_the_refusal_names_user_template_roles_and_remedy() -> None:
    asked = resolved(user_id="ada", template="ops_restart")
    words = str(AuthMiddleware(POLICY).admit(context(asked)).rejection)
    assert "user 'ada', whose roles are reader, may not use template 'ops_restart'" in words
    assert "give the user a role" in words


MODELS = Policy.from_yaml(
    """
    roles:
      reader: {templates: [chat_agent]}
      tester: {models: ["openai:*-mini", "local"]}
    users: {ada: {roles: [reader]}, bob: {roles: [reader, tester]}}
    """,
    "policy.yaml",
)


@pytest.mark.parametrize(
    ("user_id", "model", "passes"),
    [
        ("ada", None, True),
        ("ada", "anthropic:own", True),  # the template's first
        ("ada", "anthropic:later", True),  # and the one behind it
        ("ada", "openai:gpt-5-mini", False),
        ("ada", "scripted:call: mail {}", False),
        ("ada", "anthropic:own ", False),
        ("bob", "openai:gpt-5-mini", True),
        ("bob", "openai:gpt-5", False),
        ("bob", "OpenAI:gpt-5-mini", False),
        ("bob", "local", True),
        ("bob", "scripted", False),
    ],
)
def test_a_request_names_a_model_of_its_template_or_of_a_role(
    user_id: str,
    model: str | None,
    passes: bool,  # noqa: FBT001  a case's
) -> None:
    own = ("anthropic:own", "anthropic:later")
    asked = replace(context(resolved(user_id=user_id, model=model)), models_own=own)
    refused = AuthMiddleware(MODELS).admit(asked).rejection
    if passes:
        assert refused is None
        return
    assert isinstance(refused, Forbidden)
    assert f"may not name model {model!r}" in str(refused)
    assert "which has 'anthropic:own', 'anthropic:later'; leave the request's `model` out" in str(
        refused
    )


def test_without_a_policy_a_request_names_models_of_its_template_only() -> None:
    auth = AuthMiddleware(Policy())
    own = ("local",)
    for model, passes in (("local", True), ("openai:gpt-5", False)):
        asked = replace(context(resolved(model=model)), models_own=own)
        assert (auth.admit(asked).rejection is None) is passes
