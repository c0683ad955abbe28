"""The roles that a user of Kafka may have, as commands name them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from millstream.streams.broker.rights.needed import Role
from millstream.streams.broker.rights.users import USERS

__all__ = ["OF_USERS", "RIGHTS_OF", "UserRole"]


class UserRole(StrEnum):
    """A role of users of Kafka; `client` is upstream and product, `worker` lanes and views."""

    UPSTREAM = "upstream"
    PRODUCT = "product"
    CLIENT = "client"
    WORKER = "worker"
    LANES = "lanes"
    VIEWS = "views"
    AUDITOR = "auditor"
    OPERATOR = "operator"


# As the users of `up --secure`: one for each, and one for all that a worker does.
OF_USERS = tuple(UserRole(one) for one in USERS)
RIGHTS_OF: Mapping[UserRole, tuple[Role, ...]] = {
    **{UserRole(user): roles for user, roles in USERS.items()},
    UserRole.LANES: ("lanes",),
    UserRole.VIEWS: ("views",),
}
