"""Authentication's first form: may this user use this template and model, and do what it does?"""

from __future__ import annotations

from millstream.middleware.base import (
    GO_ON,
    AgentMiddleware,
    MiddlewareContext,
    MiddlewareResult,
    SessionTerms,
)
from millstream.middleware.policy import Policy
from millstream.schemas.base import partition_key
from millstream.schemas.errors import Forbidden


class AuthMiddleware(AgentMiddleware):
    """Refuses with `Forbidden` what none of the user's roles permits. Keeps no state.

    A model that the request names is one of the template's, or one that a role lets the user name.
    Each permission that a template asks for is granted by a role of the user, not necessarily the
    one that permits the template.
    """

    name = "auth"
    priority = 10

    def __init__(self, policy: Policy, *, enabled: bool = True) -> None:
        super().__init__(enabled=enabled)
        self._policy = policy

    def session_terms(self, tenant: str, user_id: str) -> SessionTerms:
        """Give what the policy says of a user's sessions."""
        rules = self._policy.rules_for(tenant, user_id)
        return SessionTerms(rules.create_first, rules.session_ttl)

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:
        """Look for roles of the user that match the template, and grant what it asks for."""
        request = context.request
        rules = self._policy.rules_for(request.tenant, request.user_id)
        missing = [name for name in context.permissions if not rules.grants(name)]
        model = request.model
        may_name = model is None or model in context.models_own or rules.may_name(model)
        if rules.may_use(request.template) and not missing and may_name:
            return GO_ON
        user = partition_key(request.tenant, request.user_id)
        held = f"whose roles are {', '.join(rules.roles)}" if rules.roles else "who has no role"
        if not rules.may_use(request.template):
            return MiddlewareResult(
                Forbidden(
                    f"user {user!r}, {held}, may not use template {request.template!r}; in the "
                    f"policy, give the user a role whose `templates` match it"
                )
            )
        if not missing:
            own = ", ".join(map(repr, context.models_own))
            return MiddlewareResult(
                Forbidden(
                    f"user {user!r}, {held}, may not name model {model!r} for template "
                    f"{request.template!r}, which has {own or 'none'}; leave the request's `model` "
                    f"out, or give the user a role in the policy whose `models` match it"
                )
            )
        names = ", ".join(map(repr, missing))
        return MiddlewareResult(
            Forbidden(
                f"user {user!r}, {held}, lacks what template {request.template!r} asks for: "
                f"{names}; in the policy, give the user a role whose `permissions` grant it"
            )
        )
