"""Who may do what, how often, and for how much: one frozen policy, read from YAML.

    roles:
      reader: {templates: [chat_agent, "structured_*"]}   # globs; case counts
      clerk:  {templates: [orders], permissions: ["orders:*"]}  # what its templates ask for
      admin:  {templates: ["*"], permissions: ["*"], models: ["openai:*"]}
    defaults:                          # for every user, listed or not
      roles: [reader]
      rate:  {requests: 60, window_s: 60}
      spend: {usd_per_day: 1.50}       # or micros_per_day: 1500000
      sessions: {create_first: true, ttl: {idle_s: 3600, total_s: 86400}}
    users:
      ada:       {roles: [admin], rate: unlimited, sessions: unlimited}
      acme/bob:  {spend: {usd_per_day: 20}}               # user bob of tenant acme
      mallory:   {roles: []}                              # may do nothing
    prices:                            # instead of the published ones
      local: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}

What holds:

- A key without a slash is a user of the tenant `default`; a user id that itself holds a slash is
  written with its tenant, `default/a/b`.
- What a user's entry leaves out comes from `defaults`, field by field; what it names replaces the
  default, roles included. What neither names is unlimited; `unlimited` lifts a default limit.
- No policy, or one that names no roles and no users: everybody may use every template. As soon as
  `roles`, `users` or `defaults.roles` stands there, only roles permit: who has none, as an unknown
  user without default roles, may do nothing.
- A request that names a model is refused, unless its template has that model, or a role of the user
  names it by a glob of its `models`.
- A day is a day of UTC, by the broker's clock.
- `sessions` says how a user's sessions begin, and how long those live that say nothing of it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from millstream.middleware.policy_errors import (
    NO_ROLE,
    NO_USER,
    Fault,
    explain,
    fault,
    nearest,
)
from millstream.middleware.yaml_tree import read_yaml
from millstream.schemas.base import DEFAULT_TENANT, NAME_CHARS_MAX, Micros, UserKey, normalised
from millstream.schemas.errors import Misconfigured
from millstream.schemas.sessions.commands import NO_TTL, TTL_IDLE_S_MAX, TTL_S_MAX, SessionTtl

TENANT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
MICROS_PER_USD = 1_000_000
_UNLIMITED = "unlimited"

_EMPTY: Final = (
    "is empty, which would permit every template to everybody; write what holds "
    "(docs/how-to/policy.md), or name no policy at all"
)


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


GlobField = Literal["templates", "permissions", "models"]
"""What a role holds as globs."""

_Glob = Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX), BeforeValidator(normalised)]


class Role(_Section):
    """What its holders may use: templates by glob (`*`, `?`, `[abc]`), permissions and models too.

    A permission is what a template asks of its users, by a name that the template gives. A model is
    what a request may name in the place of its template's own, which it may name in any case.
    """

    templates: tuple[_Glob, ...] = ()
    permissions: tuple[_Glob, ...] = ()
    models: tuple[_Glob, ...] = ()

    @model_validator(mode="after")
    def _gives_something(self) -> Self:
        if not self.model_fields_set:
            raise fault((), "gives nothing: name its `templates`, `permissions` or `models`")
        return self


class Ttl(_Section):
    """How long a session lives, in seconds: without being used, and in all."""

    idle_s: Annotated[int, Field(strict=True, ge=1, le=TTL_IDLE_S_MAX)] | None = None
    total_s: Annotated[int, Field(strict=True, ge=1, le=TTL_S_MAX)] | None = None


class Sessions(_Section):
    """How a user's sessions begin, and how long they live where nobody says otherwise."""

    create_first: Annotated[bool, Field(strict=True)] = False
    ttl: Ttl = Ttl()


class Grants(_Section):
    """What is given to a user, or to all by default; what is left out is not decided here."""

    roles: tuple[str, ...] = ()
    rate: Annotated[Rate | None, BeforeValidator(_limit)] = None
    spend: Annotated[Spend | None, BeforeValidator(_limit)] = None
    sessions: Annotated[Sessions | None, BeforeValidator(_limit)] = None


_NOTHING: Final = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class UserRules:
    """What holds for one user, defaults included. `None` is: no limit."""

    roles: tuple[str, ...]
    permitted: re.Pattern[str] | None
    rate: Rate | None
    cap_micros: Micros | None
    granted: re.Pattern[str] | None = None
    models: re.Pattern[str] = _NOTHING
    create_first: bool = False
    session_ttl: SessionTtl = NO_TTL

    def may_use(self, template: str) -> bool:
        """Tell whether a role of the user permits this template."""
        return self.permitted is None or self.permitted.match(template) is not None

    def grants(self, permission: str) -> bool:
        """Tell whether a role of the user grants this permission."""
        return self.granted is None or self.granted.match(permission) is not None

    def may_name(self, model: str) -> bool:
        """Tell whether a role of the user lets a request name this model."""
        return self.models.match(model) is not None


class _Rules(dict[UserKey, UserRules]):
    """Rules by user; whoever is not listed has the default ones."""

    def __init__(self, default: UserRules) -> None:
        super().__init__()
        self._default = default

    def __missing__(self, _user: UserKey) -> UserRules:
        return self._default


class Policy(_Section):
    """A whole policy; `Policy()` permits every template to everybody, without a limit."""

    roles: Mapping[str, Role] = Field(default_factory=dict)
    defaults: Grants = Grants()
    users: Mapping[str, Grants] = Field(default_factory=dict)
    prices: Mapping[str, Price] = Field(default_factory=dict)

    @classmethod
    def from_yaml(cls, text: str, name: str) -> Policy:
        """Read a policy from the text of the file that errors call `name`.

        Raises `Misconfigured` that lists every mistake: its line, its field, and what to do. A file
        that says nothing is one: who empties it means to close doors as often as to open them.
        """
        words: list[str] = []
        tree = read_yaml(text, name, words)
        if tree.value is None:
            raise Misconfigured(f"{name}: {_EMPTY}")
        among = mistakes_among(tree.value) if isinstance(tree.value, dict) else []
        try:
            policy = cls.model_validate(tree.value)
        except ValidationError as error:
            words += explain(error, name, tree, cls, among)
            raise Misconfigured("\n".join(words)) from error
        if not policy.governs_permissions and not any(tree.value.values()):
            words.append(f"{name}: {_EMPTY}")
        if words:
            raise Misconfigured("\n".join(words))
        return policy

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        for path, words in mistakes_among(self.model_dump(exclude_unset=True)):
            raise fault(path, words)
        return self

    @property
    def governs_permissions(self) -> bool:
        """Whether only roles permit: true once roles or users stand anywhere in the policy."""
        return (
            bool(self.roles or self.users)
            or not {"roles", "users"}.isdisjoint(self.model_fields_set)
            or "roles" in self.defaults.model_fields_set
        )

    @cached_property
    def digest(self) -> str:
        """Stands for what the policy decides, in 16 hex digits, however it is written."""
        said = {
            "governs": self.governs_permissions,
            "roles": {name: _canonical(role) for name, role in self.roles.items()},
            "others": (others := _canonical(self.rules_of_others)),
            "users": {
                json.dumps(user): rules
                for user, found in self.rules.items()
                if (rules := _canonical(found)) != others
            },
            "prices": {
                model: {field: str(usd.normalize()) for field, usd in price if usd is not None}
                for model, price in self.prices.items()
            },
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def rules(self) -> Mapping[UserKey, UserRules]:
        """What holds for each user, resolved once, so that a request only looks it up."""
        rules = _Rules(self._resolve(self.defaults))
        for written, grants in self.users.items():
            rules[_user_key(written)] = self._resolve(grants)
        return rules

    @property
    def rules_of_others(self) -> UserRules:
        """What holds for a user who is not listed."""
        return self._resolve(self.defaults)

    def rules_for(self, tenant: str, user_id: str) -> UserRules:
        """Give what holds for a user: the entry of the user, or the defaults."""
        return self.rules[tenant, user_id]

    def granted_to_nobody(self, permissions: Iterable[str]) -> tuple[str, ...]:
        """Give those of the permissions that no role grants, where only roles do."""
        if not self.governs_permissions:
            return ()
        granted = self._matching(tuple(self.roles), "permissions")
        return tuple(name for name in permissions if not granted.match(name))

    def globs(self, field: GlobField) -> Iterator[tuple[str, str]]:
        """Give each role and glob of one of what roles hold."""
        for name, role in self.roles.items():
            for glob in getattr(role, field):
                yield name, glob

    def _resolve(self, grants: Grants) -> UserRules:
        given = grants.model_fields_set
        roles = grants.roles if "roles" in given else self.defaults.roles
        rate = grants.rate if "rate" in given else self.defaults.rate
        spend = grants.spend if "spend" in given else self.defaults.spend
        sessions = grants.sessions if "sessions" in given else self.defaults.sessions
        sessions = sessions or Sessions()
        return UserRules(
            roles=roles,
            permitted=self._matching(roles, "templates") if self.governs_permissions else None,
            granted=self._matching(roles, "permissions") if self.governs_permissions else None,
            models=self._matching(roles, "models"),
            rate=rate,
            cap_micros=None if spend is None else spend.cap_micros,
            create_first=sessions.create_first,
            session_ttl=SessionTtl(idle_s=sessions.ttl.idle_s, total_s=sessions.ttl.total_s),
        )

    def _matching(self, roles: tuple[str, ...], field: GlobField) -> re.Pattern[str]:
        globs = [
            fnmatch.translate(glob)
            for role in roles
            if role in self.roles
            for glob in getattr(self.roles[role], field)
        ]
        # No glob at all must match nothing: an empty alternation would match everything.
        return re.compile("|".join(globs)) if globs else _NOTHING


def _canonical(rules: UserRules | Role) -> dict[str, Any]:
    if isinstance(rules, Role):
        return {field: sorted({*globs}) for field, globs in rules}
    ttl = rules.session_ttl
    return {
        "roles": sorted({*rules.roles}),
        "rate": rules.rate and rules.rate.model_dump(),
        "cap_micros": rules.cap_micros,
        "sessions": [rules.create_first, ttl.idle_s, ttl.total_s],
    }


def _user_key(written: str) -> UserKey:
    tenant, slash, user_id = written.partition("/")
    text = unicodedata.normalize("NFC", user_id if slash else written)
    return (tenant if slash else DEFAULT_TENANT), text


def mistakes_among(value: Mapping[str, Any]) -> list[Fault]:
    """Give what is wrong between the parts of a policy, as it is written; parts may be wrong too.

    Users are named once each and as users can be, and have roles that are defined.
    """
    roles, users = (_mapping(value.get(part)) for part in ("roles", "users"))
    defaults = _mapping(value.get("defaults"))
    found: list[Fault] = []
    seen: dict[UserKey, str] = {}
    for written in users:
        key = _user_key(written)
        if not re.fullmatch(TENANT_PATTERN, key[0]) or not key[1]:
            found.append((("users", written), NO_USER))
        elif key in seen:
            found.append((("users", written), f"is the same user as {seen[key]!r}; keep one"))
        seen[key] = written
    for path, grants in (
        (("defaults",), defaults),
        *((("users", written), _mapping(given)) for written, given in users.items()),
    ):
        named = grants.get("roles", ())
        found.extend(
            ((*path, "roles"), f"no role {role!r}{nearest(role, roles)}")
            for role in (named if isinstance(named, list | tuple) else ())
            if isinstance(role, str) and role not in roles
        )
    for written, given in users.items():
        if isinstance(given, dict) and "roles" not in {*given, *defaults}:
            found.append((("users", written), NO_ROLE))
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
