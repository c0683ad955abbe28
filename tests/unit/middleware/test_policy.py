"""What a policy grants, and how a mistake in one is told."""

from __future__ import annotations

import textwrap

import pytest

from millstream.middleware import policy as policy_module
from millstream.middleware.policy import Policy
from millstream.schemas.errors import Misconfigured


def read(text: str) -> Policy:
    return Policy.from_yaml(textwrap.dedent(text), "policy.yaml")


def test_the_example_of_the_documentation_is_read_as_it_says() -> None:
    words = policy_module.__doc__ or ""
    policy = read(words[words.index("    roles:") : words.index("What holds")])

    ada = policy.rules_for("default", "ada")
    assert (ada.roles, ada.rate, ada.cap_micros) == (("admin",), None, 1_500_000)
    bob = policy.rules_for("acme", "bob")
    assert bob.roles == ("reader",)
    assert bob.rate is not None
    assert (bob.rate.requests, bob.rate.window_s, bob.cap_micros) == (60, 60, 20_000_000)
    assert not policy.rules_for("default", "mallory").may_use("chat_agent")
    stranger = policy.rules_for("default", "stranger")
    assert stranger.may_use("structured_agent")
    assert not stranger.may_use("react_agent")


@pytest.mark.parametrize(
    "text",
    [
        "defaults: {rate: {requests: 1, window_s: 1}}",
        "prices: {local: {input_usd_per_mtok: 0, output_usd_per_mtok: 0}}",
    ],
)
def test_without_roles_and_users_everybody_may_use_every_template(text: str) -> None:
    assert read(text).rules_for("default", "anyone").may_use("anything")


def test_no_policy_limits_nothing() -> None:
    rules = Policy().rules_for("acme", "anyone")
    assert (rules.rate, rules.cap_micros, rules.permitted) == (None, None, None)


@pytest.mark.parametrize("text", ["roles: {r: {templates: ['*']}}", "users: {ada: {roles: []}}"])
def test_an_unknown_user_without_default_roles_may_do_nothing(text: str) -> None:
    assert not read(text).rules_for("default", "stranger").may_use("chat_agent")


def test_a_role_without_templates_permits_nothing() -> None:
    policy = read("{roles: {none: {templates: []}}, defaults: {roles: [none]}}")
    assert not policy.rules_for("default", "ada").may_use("")


def test_a_slash_in_a_user_id_gives_no_rights_of_another_tenant() -> None:
    policy = read("{roles: {all: {templates: ['*']}}, users: {acme/bob: {roles: [all]}}}")
    assert policy.rules_for("acme", "bob").may_use("chat_agent")
    assert not policy.rules_for("default", "acme/bob").may_use("chat_agent")


def test_a_user_id_with_a_slash_is_written_with_its_tenant() -> None:
    policy = read("{roles: {all: {templates: ['*']}}, users: {default/a/b: {roles: [all]}}}")
    assert policy.rules_for("default", "a/b").may_use("chat_agent")


def test_two_unicode_forms_of_a_name_are_one_user() -> None:
    policy = read("{users: {'Zoe\u0308': {roles: []}}, roles: {}}")
    assert policy.rules_for("default", "Zo\u00eb").permitted is not None
    with pytest.raises(Misconfigured, match="is the same user as"):
        read("users: {'Zoe\u0308': {roles: []}, 'Zo\u00eb': {roles: []}}")


def test_users_whose_names_yaml_would_read_as_other_things_are_found() -> None:
    policy = read("users:\n  no: {roles: []}\n  42: {spend: {micros_per_day: 5}, roles: []}\n")
    assert policy.rules_for("default", "42").cap_micros == 5
    assert set(policy.users) == {"no", "42"}


def test_unlimited_lifts_a_default_limit() -> None:
    policy = read(
        """
        defaults: {spend: {usd_per_day: 0.000001}, rate: {requests: 1, window_s: 1}, roles: []}
        users: {ada: {spend: unlimited, rate: unlimited}}
        """
    )
    assert policy.rules_for("default", "bob").cap_micros == 1
    ada = policy.rules_for("default", "ada")
    assert (ada.rate, ada.cap_micros) == (None, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rols: {}", "line 1: rols: unknown key; did you mean 'roles'?"),
        (
            "defaults:\n  rate: {requsts: 5, window_s: 60}",
            "line 2: defaults.rate.requsts: unknown key; did you mean 'requests'?",
        ),
        (
            "users:\n  ada:\n    rolls: []",
            "line 3: users.ada.rolls: unknown key; did you mean 'roles'?",
        ),
        (
            "roles:\n  a: {tmpl: []}",
            "line 2: roles.a.tmpl: unknown key; did you mean 'templates'?",
        ),
        (
            "defaults:\n  rate:\n    requests: 5",
            "line 2: defaults.rate.window_s: is missing; add it",
        ),
        ("defaults: {rate: {requests: yes, window_s: 1}}", "defaults.rate.requests: Input should"),
        ("defaults: {rate: {requests: 0, window_s: 1}}", "greater than or equal to 1 (it is 0)"),
        (
            "roles: {admin: {templates: ['*']}}\nusers:\n  ada: {roles: [amdin]}",
            "line 3: users.ada.roles: no role 'amdin'; did you mean 'admin'?",
        ),
        ("defaults: {roles: [reader]}", "defaults.roles: no role 'reader'; none is defined"),
        ("users: {ada: {rate: {requests: 1, window_s: 1}}}", "users.ada: has no role, and there"),
        ("users: {'/ada': {roles: []}}", "users./ada: is no user"),
        ("users: {'acme/': {roles: []}}", "users.acme/: is no user"),
        ("users: {ada: {roles: []}, default/ada: {roles: []}}", "is the same user as 'ada'"),
        ("users:\n  ada: {roles: []}\n  ada: {}", "line 3: 'ada' is given twice"),
        ("users: 3", "users: must be a mapping (a name each), it is 3"),
        ("defaults: {spend: 5}", "must be a mapping (usd_per_day, micros_per_day), it is 5"),
        ("defaults:\n  spend:\n", "line 2: defaults.spend: is empty; give its fields, or write"),
        ("defaults: {spend: {}}", "defaults.spend: give exactly one of"),
        ("defaults: {spend: {usd_per_day: 1, micros_per_day: 1}}", "give exactly one of"),
        ("defaults: {spend: {usd_per_day: 0.0000001}}", "no more than 6 decimal places"),
        ("roles: {a: {templates: chat_agent}}", "must be a list, as in ['chat_agent']"),
        ("roles: {a: {templates: [*]}}", "put a text that begins with * in quotes"),
        ("prices: {local: {input_usd_per_mtok: .inf, output_usd_per_mtok: 0}}", "finite number"),
        ("prices: {local: {input_usd_per_mtok: -1, output_usd_per_mtok: 0}}", "(it is -1)"),
        ("- a", "policy.yaml: must be a mapping (roles, defaults, users, prices)"),
        ("a: [", "line 1: not YAML"),
        ("a: &x {b: *x}", "line 1: shown again by an alias"),
        ("? [1]\n: 2", "line 1: a key must be plain text"),
        ("[" * 5000, "nested deeper than 16 levels"),
        ("a: \x00", "not YAML"),
        ("a: 2026-99-99", "line 1: '2026-99-99': month must be in 1..12; put it in quotes"),
        ("a: !!python/name:os.system x", "line 1: not YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line_its_field_and_what_to_do(text: str, words: str) -> None:
    with pytest.raises(Misconfigured) as told:
        Policy.from_yaml(text, "policy.yaml")
    assert words in str(told.value)
    assert str(told.value).startswith("policy.yaml: ")


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(Misconfigured) as told:
        read("rols: {}\nusrs: {}\n")
    assert len(str(told.value).splitlines()) == 2


def test_a_role_may_give_permissions_alone_but_not_nothing() -> None:
    policy = read("{roles: {clerk: {permissions: ['orders:*']}}, users: {ada: {roles: [clerk]}}}")
    rules = policy.rules_for("default", "ada")
    assert rules.grants("orders:read")
    assert not rules.grants("mail:send")
    assert not rules.may_use("orders")
    with pytest.raises(Misconfigured, match=r"line 1: roles\.a: gives nothing: name its"):
        read("roles: {a: {}}")


def test_permissions_that_no_role_grants_are_known() -> None:
    policy = read("{roles: {clerk: {permissions: ['orders:*']}}}")
    assert policy.granted_to_nobody(("orders:read", "mail:send")) == ("mail:send",)
    assert Policy().granted_to_nobody(("mail:send",)) == ()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null", "{}", "prices: {}"])
def test_a_policy_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match=r"^policy\.yaml: is empty, which would permit"):
        read(text)


@pytest.mark.parametrize("text", ["roles: {}", "users: {}", "defaults: {roles: []}"])
def test_where_roles_or_users_stand_without_any_nobody_may_do_anything(text: str) -> None:
    assert not read(text).rules_for("default", "ada").may_use("chat_agent")


def test_mistakes_of_every_kind_are_told_at_once() -> None:
    with pytest.raises(Misconfigured) as told:
        read(
            """\
            roles:
              a: {tmpl: []}
              b: {templates: ["*"]}
              b: {templates: ["x"]}
            defaults: {rate: {requests: 0, window_s: 1}}
            users:
              /ada: {roles: [b]}
              bob: {roles: [bb, cc]}
              eve: {}
              cat: {roles: 2026-99-99}
            prices: {local: 5}
            rols: {}
            """
        )
    lines = str(told.value).splitlines()
    assert len(lines) == len(set(lines))
    for words in (
        "line 4: 'b' is given twice",
        "line 10: '2026-99-99'",
        "line 2: roles.a.tmpl: unknown key",
        "line 5: defaults.rate.requests: ",
        "line 7: users./ada: is no user",
        "line 8: users.bob.roles: no role 'bb'; did you mean 'b'?",
        "line 8: users.bob.roles: no role 'cc'",
        "line 9: users.eve: has no role",
        "line 11: prices.local: must be a mapping",
        "line 12: rols: unknown key",
    ):
        assert any(words in line for line in lines), words


def test_who_names_no_model_in_a_role_may_name_none() -> None:
    policy = read("{roles: {r: {templates: [a]}}, users: {ada: {roles: [r], rate: unlimited}}}")
    assert not policy.rules_for("default", "ada").may_name("local")


WHOLE = """
    roles: {a: {templates: [x, "y*"]}, b: {permissions: ["p:*"], models: [local]}}
    defaults: {roles: [a, b], rate: {requests: 6, window_s: 60}, sessions: {create_first: true}}
    users: {ada: {spend: {usd_per_day: 1.50}}, acme/bob: {rate: unlimited}, eve: {}}
    prices: {local: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}}
"""


def test_digest_is_the_same_however_a_policy_is_written() -> None:
    again = """
    prices: {local: {output_usd_per_mtok: 0.40, input_usd_per_mtok: 0.10}}
    users: {acme/bob: {rate: unlimited}, default/ada: {spend: {micros_per_day: 1500000}}}
    defaults: {sessions: {create_first: true}, rate: {window_s: 60, requests: 6}, roles: [b, a]}
    roles: {b: {models: [local], permissions: ["p:*"]}, a: {templates: ["y*", x]}}  # said anew
    """
    assert read(again).digest == read(WHOLE).digest
    # What is kept and compared elsewhere must not change with a version.
    assert (read(WHOLE).digest, Policy().digest) == ("bd4d4c0d528de356", "f36ddacece44a056")


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ("usd_per_day: 1.50", "usd_per_day: 1.51"),
        ("requests: 6,", "requests: 7,"),
        ("templates: [x", "templates: [z"),
        ("models: [local]", "models: [other]"),
        ('permissions: ["p:*"]', 'permissions: ["q:*"]'),
        ("roles: [a, b]", "roles: [a]"),
        ("create_first: true", "create_first: false"),
        ("input_usd_per_mtok: 0.1,", "input_usd_per_mtok: 0.2,"),
        ("acme/bob: {rate: unlimited}", "acme/bob: {}"),
        ("eve: {}", "eve: {sessions: unlimited}"),
        ("eve: {}", "eve: {roles: []}"),
    ],
)
def test_digest_is_another_for_whatever_decides_otherwise(said: str, instead: str) -> None:
    assert said in WHOLE
    assert read(WHOLE.replace(said, instead)).digest != read(WHOLE).digest


def test_a_policy_that_lets_nobody_in_is_not_the_one_that_lets_everybody_in() -> None:
    assert read("{defaults: {roles: []}}").digest != Policy().digest


SESSIONS = """
    defaults:
      sessions: {create_first: true, ttl: {idle_s: 60, total_s: 3600}}
    roles: {all: {templates: ["*"]}}
    users:
      ada: {roles: [all], sessions: unlimited}
      acme/bob: {roles: [all], sessions: {ttl: {idle_s: 5}}}
      eve: {roles: [all]}
"""


@pytest.mark.parametrize(
    ("tenant", "user_id", "create_first", "idle_s", "total_s"),
    [
        ("default", "stranger", True, 60, 3600),
        ("default", "eve", True, 60, 3600),
        ("default", "ada", False, None, None),
        ("acme", "bob", False, 5, None),
        ("acme", "ada", True, 60, 3600),
    ],
)
def test_what_it_says_of_sessions_is_given_by_user_as_its_limits_are(
    tenant: str, user_id: str, *, create_first: bool, idle_s: int | None, total_s: int | None
) -> None:
    rules = read(SESSIONS).rules_for(tenant, user_id)
    assert rules.create_first is create_first
    assert (rules.session_ttl.idle_s, rules.session_ttl.total_s) == (idle_s, total_s)


def test_to_speak_of_sessions_is_not_to_govern_permissions() -> None:
    policy = read("defaults: {sessions: {create_first: true}}")
    assert policy.rules_for("default", "ada").may_use("anything")
    assert policy.digest != Policy().digest


@pytest.mark.parametrize(
    ("sessions", "words"),
    [
        ("{ttl: {idle_s: 0}}", "defaults.sessions.ttl.idle_s: .*greater than or equal to 1"),
        ("{ttl: {idle_s: -1}}", "defaults.sessions.ttl.idle_s: .*greater than or equal to 1"),
        ("{ttl: {idle_s: 31536000000}}", "ttl.idle_s: .*less than or equal to 2592000"),
        ("{ttl: {total_s: 31536000000}}", "ttl.total_s: .*less than or equal to 31536000"),
        ("{ttl: {idle_s: soon}}", "defaults.sessions.ttl.idle_s: .*valid integer"),
        ("{ttl: {idle_s: '60'}}", "defaults.sessions.ttl.idle_s: .*valid integer"),
        ("{ttl: {idle_s: 1.5}}", "defaults.sessions.ttl.idle_s: .*valid integer"),
        ("{ttl: {idle_s: true}}", "defaults.sessions.ttl.idle_s: .*valid integer"),
        ("{ttl: {idle: 60}}", "unknown key; did you mean 'idle_s'"),
        ("{ttl: 60}", r"defaults.sessions.ttl: must be a mapping \(idle_s, total_s\)"),
        ("{create_first: maybe}", "defaults.sessions.create_first: .*valid boolean"),
        ("{create: true}", "unknown key; did you mean 'create_first'"),
        ("strict", "must be a mapping"),
        ("", "is empty; give its fields, or write `unlimited`"),
    ],
)
def test_a_mistake_in_what_it_says_of_sessions_is_told(sessions: str, words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        read(f"defaults:\n  sessions: {sessions}\n")
