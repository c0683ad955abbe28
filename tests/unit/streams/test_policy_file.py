"""The policy as a file, and what it means for the templates of a worker."""

from __future__ import annotations

from structlog.testing import capture_logs

from millstream.agents.templates.template import AgentTemplate
from millstream.middleware.policy import Policy
from millstream.streams.policy_file import tell_of_templates_for_nobody


def test_a_template_that_nobody_may_use_is_told_in_the_log() -> None:
    policy = Policy.from_yaml("roles: {clerk: {permissions: ['orders:*']}}", "policy.yaml")
    templates = [
        AgentTemplate(name="a", permissions=("orders:read", "mail:send")),
        AgentTemplate(name="b", permissions=("orders:read",)),
    ]
    with capture_logs() as lines:
        tell_of_templates_for_nobody(policy, templates)
    assert [(line["template"], line["permissions"]) for line in lines] == [("a", ("mail:send",))]
