"""Authentication's first form: may this user use this template?"""

from __future__ import annotations

from millstream.middleware.base import GO_ON, AgentMiddleware, MiddlewareContext, MiddlewareResult
from millstream.middleware.policy import Policy
from millstream.schemas.base import partition_key
from millstream.schemas.errors import Forbidden


class AuthMiddleware(AgentMiddleware):
    """Refuses with `Forbidden` what none of the user's roles permits. Keeps no state."""

    name = "auth"
    priority = 10

    def __init__(self, policy: Policy, *, enabled: bool = True) -> None:
        super().__init__(enabled=enabled)
        self._policy = policy

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:
        """Look for a role of the user whose globs match the request's template."""
        request = context.request
        rules = self._policy.rules_for(request.tenant, request.user_id)
        if rules.may_use(request.template):
            return GO_ON
        user = partition_key(request.tenant, request.user_id)
        held = f"whose roles are {', '.join(rules.roles)}" if rules.roles else "who has no role"
        return MiddlewareResult(
            Forbidden(
                f"user {user!r}, {held}, may not use template {request.template!r}; in the policy, "
                f"give the user a role whose `templates` match it"
            )
        )
