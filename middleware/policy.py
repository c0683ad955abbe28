"""Who may do what, how often, and for how much: one frozen policy, read from YAML.

    roles:
      reader: {templates: [chat_agent, "structured_*"]}   # globs; case counts
      clerk:  {templates: [orders], permissions: ["orders:*"]}  # what its templates ask for
      admin:  {templates: ["*"], permissions: ["*"]}
    defaults:                          # for every user, listed or not
      roles: [reader]
      rate:  {requests: 60, window_s: 60}
      spend: {usd_per_day: 1.50}       # or micros_per_day: 1500000
    users:
      ada:       {roles: [admin], rate: unlimited}
      acme/bob:  {spend: {usd_per_day: 20}}               # user bob of tenant acme
      mallory:   {roles: []}                              # may do nothing
    prices:                            # instead of the published ones
      local: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}

What holds:

- A key without a slash is a user of the tenant `default`; a user id that itself holds a slash is
  written with its tenant, `default/a/b`.
- What a user's entry leaves out comes from `defaults`, field by field; what it names replaces the
  default, roles included. What neither names is unlimited; `unlimited` lifts a default limit.
- No policy, or one with neither `roles` nor `users`: everybody may use every template. As soon as
  either stands there, only roles permit: who has none, as an unknown user without default roles,
  may do nothing.
- A day is a day of UTC, by the broker's clock.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from millstream.middleware.policy_errors import explain, fault, nearest
from millstream.middleware.yaml_tree import read_yaml
from millstream.schemas.base import DEFAULT_TENANT, Micros, UserKey
from millstream.schemas.errors import Misconfigured

TENANT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
MICROS_PER_USD = 1_000_000
_UNLIMITED = "unlimited"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _limit(value: object) -> object:
    if value is None:
        raise fault((), f"is empty; give its fields, or write `{_UNLIMITED}`")
    return None if value == _UNLIMITED else value


class Rate(_Section):
    """At most `requests` admitted in any `window_s` seconds."""

    requests: Annotated[int, Field(strict=True, ge=1, le=10_000)]
    window_s: Annotated[int, Field(strict=True, ge=1, le=86_400)]


class Spend(_Section):
    """A cap on what a user spends in one UTC day: in US dollars or in millionths of them."""

    usd_per_day: Annotated[Decimal, Field(ge=0, le=1_000_000_000, decimal_places=6)] | None = None
    micros_per_day: Annotated[int, Field(strict=True, ge=0, le=10**15)] | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if (self.usd_per_day is None) == (self.micros_per_day is None):
            raise fault((), "give exactly one of usd_per_day and micros_per_day")
        return self

    @property
    def cap_micros(self) -> Micros:
        """The cap in millionths of a US dollar."""
        if self.micros_per_day is not None:
            return self.micros_per_day
        return int((self.usd_per_day or Decimal(0)) * MICROS_PER_USD)


_UsdPerMtok = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=9)]


class Price(_Section):
    """What a model's tokens cost, in US dollars per million of them.

    Tokens that are read from the provider's cache, written to it, or are audio cost as much as any
    other where no price of their own is given; those that are written to stay for an hour, 1.6
    times what others cost that are written. Reasoning costs what output does.
    """

    input_usd_per_mtok: _UsdPerMtok
    output_usd_per_mtok: _UsdPerMtok
    cache_read_usd_per_mtok: _UsdPerMtok | None = None
    cache_write_usd_per_mtok: _UsdPerMtok | None = None
    cache_write_1h_usd_per_mtok: _UsdPerMtok | None = None
    audio_input_usd_per_mtok: _UsdPerMtok | None = None
    audio_output_usd_per_mtok: _UsdPerMtok | None = None


_Glob = Annotated[str, Field(min_length=1, max_length=256)]


class Role(_Section):
    """What its holders may use: templates by glob (`*`, `?`, `[abc]`), and permissions by glob.

    A permission is what a template asks of its users, by a name that the template gives.
    """

    templates: tuple[_Glob, ...] = ()
    permissions: tuple[_Glob, ...] = ()

    @model_validator(mode="after")
    def _gives_something(self) -> Self:
        if not self.model_fields_set:
            raise fault((), "gives nothing: name its `templates`, its `permissions`, or both")
        return self


class Grants(_Section):
    """What is given to a user, or to all by default; what is left out is not decided here."""

    roles: tuple[str, ...] = ()
    rate: Annotated[Rate | None, BeforeValidator(_limit)] = None
    spend: Annotated[Spend | None, BeforeValidator(_limit)] = None


@dataclass(frozen=True, slots=True)
class UserRules:
    """What holds for one user, defaults included. `None` is: no limit."""

    roles: tuple[str, ...]
    permitted: re.Pattern[str] | None
    rate: Rate | None
    cap_micros: Micros | None
    granted: re.Pattern[str] | None = None

    def may_use(self, template: str) -> bool:
        """Tell whether a role of the user permits this template."""
        return self.permitted is None or self.permitted.match(template) is not None

    def grants(self, permission: str) -> bool:
        """Tell whether a role of the user grants this permission."""
        return self.granted is None or self.granted.match(permission) is not None


class _Rules(dict[UserKey, UserRules]):
    """Rules by user; whoever is not listed has the default ones."""

    def __init__(self, default: UserRules) -> None:
        super().__init__()
        self._default = default

    def __missing__(self, _user: UserKey) -> UserRules:
        return self._default


class Policy(_Section):
    """A whole policy; `Policy()` permits everything to everybody, without a limit."""

    roles: Mapping[str, Role] = Field(default_factory=dict)
    defaults: Grants = Grants()
    users: Mapping[str, Grants] = Field(default_factory=dict)
    prices: Mapping[str, Price] = Field(default_factory=dict)

    @classmethod
    def from_yaml(cls, text: str, name: str) -> Policy:
        """Read a policy from the text of the file that errors call `name`.

        Raises `Misconfigured` that lists every mistake: its line, its field, and what to do.
        """
        tree = read_yaml(text, name)
        try:
            return cls.model_validate(tree.value)
        except ValidationError as error:
            raise Misconfigured(explain(error, name, tree, cls)) from error

    @model_validator(mode="after")
    def _users_are_distinct(self) -> Self:
        seen: dict[UserKey, str] = {}
        for written in self.users:
            key = _user_key(written)
            if not re.fullmatch(TENANT_PATTERN, key[0]) or not key[1]:
                raise fault(
                    ("users", written),
                    "is no user: write `user`, or `tenant/user` with a tenant of letters, digits, "
                    "dots, underscores and hyphens (a user id with a slash: `default/a/b`)",
                )
            if key in seen:
                raise fault(("users", written), f"is the same user as {seen[key]!r}; keep one")
            seen[key] = written
        return self

    @model_validator(mode="after")
    def _roles_are_known(self) -> Self:
        for path, grants in self._all_grants():
            for role in grants.roles:
                if role not in self.roles:
                    raise fault((*path, "roles"), f"no role {role!r}{nearest(role, self.roles)}")
        for written, grants in self.users.items():
            if "roles" not in grants.model_fields_set | self.defaults.model_fields_set:
                raise fault(
                    ("users", written),
                    "has no role, and there are no default ones: the user could do nothing. Give "
                    "`roles` here or under `defaults` (`roles: []` if nothing is what you mean)",
                )
        return self

    @property
    def governs_permissions(self) -> bool:
        """Whether only roles permit: true once `roles` or `users` stand in the policy."""
        return bool(self.roles or self.users) or "roles" in self.model_fields_set

    @cached_property
    def digest(self) -> str:
        """Stands for all that the policy says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @cached_property
    def rules(self) -> Mapping[UserKey, UserRules]:
        """What holds for each user, resolved once, so that a request only looks it up."""
        rules = _Rules(self._resolve(self.defaults))
        for written, grants in self.users.items():
            rules[_user_key(written)] = self._resolve(grants)
        return rules

    def rules_for(self, tenant: str, user_id: str) -> UserRules:
        """Give what holds for a user: the entry of the user, or the defaults."""
        return self.rules[tenant, user_id]

    def granted_to_nobody(self, permissions: Iterable[str]) -> tuple[str, ...]:
        """Give those of the permissions that no role grants, where only roles do."""
        if not self.governs_permissions:
            return ()
        granted = self._matching(tuple(self.roles), "permissions")
        return tuple(name for name in permissions if not granted.match(name))

    def _all_grants(self) -> Iterable[tuple[tuple[str, ...], Grants]]:
        yield ("defaults",), self.defaults
        for written, grants in self.users.items():
            yield ("users", written), grants

    def _resolve(self, grants: Grants) -> UserRules:
        given = grants.model_fields_set
        roles = grants.roles if "roles" in given else self.defaults.roles
        rate = grants.rate if "rate" in given else self.defaults.rate
        spend = grants.spend if "spend" in given else self.defaults.spend
        return UserRules(
            roles=roles,
            permitted=self._matching(roles, "templates") if self.governs_permissions else None,
            granted=self._matching(roles, "permissions") if self.governs_permissions else None,
            rate=rate,
            cap_micros=None if spend is None else spend.cap_micros,
        )

    def _matching(
        self, roles: tuple[str, ...], field: Literal["templates", "permissions"]
    ) -> re.Pattern[str]:
        globs = [
            fnmatch.translate(unicodedata.normalize("NFC", glob))
            for role in roles
            if role in self.roles
            for glob in getattr(self.roles[role], field)
        ]
        # No glob at all must match nothing: an empty alternation would match everything.
        return re.compile("|".join(globs) if globs else r"(?!)")


def _user_key(written: str) -> UserKey:
    tenant, slash, user_id = written.partition("/")
    text = unicodedata.normalize("NFC", user_id if slash else written)
    return (tenant if slash else DEFAULT_TENANT), text
