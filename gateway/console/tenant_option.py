"""Which user is meant by a name on the command line."""

from __future__ import annotations

import typer
from pydantic import TypeAdapter, ValidationError

from millstream.schemas.base import DEFAULT_TENANT, TenantName

__all__ = ["tenant_of"]

_TENANT: TypeAdapter[str] = TypeAdapter(TenantName)


def tenant_of(user: str | None, tenant: str | None) -> str | None:
    """Give the tenant of a user, the default one where none is named; `None` for everybody.

    Output shows a user of another tenant as `tenant/user`, and a user id may hold a slash itself.
    Raises `typer.BadParameter` for a name that may be meant either way.
    """
    if user is None or tenant is not None:
        return tenant
    before, slash, behind = user.partition("/")
    if slash and behind and _is_tenant(before):
        message = (
            f"{user!r} may be user {behind!r} of tenant {before!r} (write --user {behind} --tenant "
            f"{before}), or the user id of one of the tenant {DEFAULT_TENANT} (write --user {user} "
            f"--tenant {DEFAULT_TENANT})"
        )
        raise typer.BadParameter(message, param_hint="--user")
    return DEFAULT_TENANT


def _is_tenant(name: str) -> bool:
    try:
        _TENANT.validate_python(name)
    except ValidationError:
        return False
    return True
