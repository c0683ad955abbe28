"""Which user a name on the command line means."""

from __future__ import annotations

import pytest
import typer

from millstream.gateway.console.tenant_option import tenant_of


@pytest.mark.parametrize(
    ("user", "tenant", "found"),
    [
        (None, None, None),
        (None, "acme", "acme"),
        ("ada", None, "default"),
        ("ada", "acme", "acme"),
        ("a/b", "default", "default"),
        ("a/b", "acme", "acme"),
        # None of these is a tenant and its user.
        ("/a", None, "default"),
        ("a/", None, "default"),
        ("a b/c", None, "default"),
    ],
)
def test_a_user_is_of_the_tenant_that_is_named_or_of_the_default_one(
    user: str | None, tenant: str | None, found: str | None
) -> None:
    assert tenant_of(user, tenant) == found


def test_a_name_that_may_be_meant_either_way_is_asked_back() -> None:
    with pytest.raises(typer.BadParameter) as told:
        tenant_of("acme/bob/x", None)
    assert "--user bob/x --tenant acme" in str(told.value)
    assert "--user acme/bob/x --tenant default" in str(told.value)
