"""What `doctor` looks at, in the order in which it tells of it."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from millstream.gateway.checks.clock import check_clock
from millstream.gateway.checks.configured import check_policy, check_policy_globs, check_settings
from millstream.gateway.checks.finding import Check, together
from millstream.gateway.checks.installed import (
    check_disk,
    check_environment,
    check_jars,
    check_python,
)
from millstream.gateway.checks.models import (
    check_default_model,
    check_model,
    check_template_models,
)
from millstream.gateway.checks.policies import check_policies
from millstream.gateway.checks.ports import check_metrics_port
from millstream.gateway.checks.rights import check_rights
from millstream.gateway.checks.services import check_kafka, check_offsets, check_redis
from millstream.gateway.checks.templates import check_workers
from millstream.gateway.checks.views import check_session_view, check_views
from millstream.streams.broker.rights.needed import Role

__all__ = ["checks_of"]


def checks_of(roles: Collection[Role]) -> tuple[Check, ...]:
    """Give the checks in their order; rights are looked at for `roles`, if any are named."""
    return (
        check_python,
        check_environment,
        check_settings,
        check_jars,
        check_model,
        check_default_model,
        check_template_models,
        check_disk,
        check_metrics_port,
        check_policy,
        check_policy_globs,
        together(
            check_kafka,
            partial(check_rights, roles),
            check_clock,
            check_redis,
            check_views,
            check_session_view,
            check_offsets,
            check_workers,
            check_policies,
        ),
    )
